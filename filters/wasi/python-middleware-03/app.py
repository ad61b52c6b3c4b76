"""A middleware in Python for WASI 0.3 that adds a field to the request and one to the response, and hands their bodies
over.
"""

import wit_world
from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports import handler as behind
from wit_world.imports.wasi_http_types import Fields, Request, Response

NAME = "x-python"
VALUE = b"3.0"


class Handler(exports.Handler):
    async def handle(self, request: Request) -> Response:
        return stamped_response(await behind.handle(stamped_request(request)))


def stamped_request(request: Request) -> Request:
    """A received message is not to be changed: another takes its place."""
    headers = stamped(request.get_headers())
    method, scheme = request.get_method(), request.get_scheme()
    authority, target = request.get_authority(), request.get_path_with_query()
    body, trailers = Request.consume_body(request, done())
    request, _sent = Request.new(headers, body, trailers, None)
    request.set_method(method)
    request.set_scheme(scheme)
    request.set_authority(authority)
    request.set_path_with_query(target)
    return request


def stamped_response(response: Response) -> Response:
    headers, status = stamped(response.get_headers()), response.get_status_code()
    body, trailers = Response.consume_body(response, done())
    response, _sent = Response.new(headers, body, trailers)
    response.set_status_code(status)
    return response


def stamped(headers: Fields) -> Fields:
    headers = headers.clone()
    headers.append(NAME, VALUE)
    return headers


def done():
    """Nothing is known of how the message fares: whoever asks is told that all is well."""
    _, reader = wit_world.result_unit_wasi_http_types_error_code_future(lambda: Ok(None))
    return reader
