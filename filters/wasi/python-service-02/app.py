"""A service in Python for WASI 0.2: one call an exchange, on streams that are waited for.

../README.md says what each path does.
"""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import OutputStream, StreamError_Closed
from wit_world.imports.types import (
    ErrorCode_InternalError,
    Fields,
    IncomingBody,
    IncomingRequest,
    Method_Other,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
    Scheme_Http,
    Scheme_Https,
)

# What a blocking write takes at once, by WASI's definition.
WRITE_BYTES = 4096
# What is asked of the host at once when a body is copied.
READ_BYTES = 64 << 10
# The body of `/large` is this, again and again.
DIGITS = b"0123456789abcdef"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        target = request.path_with_query() or ""
        path, _, query = target.partition("?")
        match path:
            case "/hello":
                answer(response_out, 200, b"hello\n")
            case "/headers":
                answer(response_out, 200, seen(request, target))
            case "/echo":
                echo(request, response_out)
            case "/trailers":
                trailers(response_out)
            case "/large":
                large(response_out, length(query))
            case "/error":
                ResponseOutparam.set(response_out, Err(ErrorCode_InternalError("as wished")))
            case "/trap":
                raise RuntimeError("as the request wished")
            case _ if path.startswith("/status/"):
                answer(response_out, int(path.removeprefix("/status/")), b"")
            case _:
                answer(response_out, 404, b"no such path\n")


def length(query: str) -> int:
    """`bytes=12` gives 12."""
    for pair in query.split("&"):
        if pair.startswith("bytes="):
            return int(pair.removeprefix("bytes="))
    return 0


def answer(out: ResponseOutparam, status: int, text: bytes) -> None:
    """A whole text, with its length."""
    headers = [("content-type", b"text/plain"), ("content-length", str(len(text)).encode())]
    respond(out, status, headers, [text])


def large(out: ResponseOutparam, count: int) -> None:
    piece = DIGITS * (WRITE_BYTES // len(DIGITS))
    pieces = (piece[: count - start] for start in range(0, count, WRITE_BYTES))
    respond(out, 200, [("content-length", str(count).encode())], pieces)


def trailers(out: ResponseOutparam) -> None:
    last = Fields.from_list([("x-last", b"1")])
    respond(out, 200, [("trailer", b"x-last")], [b"trailed\n"], lambda: last)


def echo(request: IncomingRequest, out: ResponseOutparam) -> None:
    """The request's body comes back as it comes in, its trailers after it."""
    received = request.headers()
    headers = [(name, value) for name in ("content-type", "trailer") for value in received.get(name)]
    body = request.consume()

    def last() -> Fields | None:
        coming = IncomingBody.finish(body)
        with coming.subscribe() as ready:
            ready.block()
        match coming.get():
            # They are the host's, and not to be handed back.
            case Ok(Ok(Fields() as trailers)):
                return trailers.clone()
            case _:
                return None

    respond(out, 200, headers, pieces_of(body), last)


def pieces_of(body: IncomingBody):
    with body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(READ_BYTES)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return
                raise


def respond(out: ResponseOutparam, status: int, headers, pieces, last=lambda: None) -> None:
    response = OutgoingResponse(Fields.from_list(headers))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    try:
        with body.write() as stream:
            for piece in pieces:
                write(stream, piece)
        OutgoingBody.finish(body, last())
    except Err:
        # The client has gone away.
        pass


def write(stream: OutputStream, piece: bytes) -> None:
    for start in range(0, len(piece), WRITE_BYTES):
        stream.blocking_write_and_flush(piece[start : start + WRITE_BYTES])


def seen(request: IncomingRequest, target: str) -> bytes:
    """The request's head as this guest sees it."""
    lines = [f"{method(request)} {target}", f"scheme: {scheme(request)}", f"authority: {request.authority() or ''}", ""]
    lines += [f"{name}: {value.decode('latin-1')}" for name, value in request.headers().entries()]
    return ("\n".join(lines) + "\n").encode("latin-1")


def method(request: IncomingRequest) -> str:
    match request.method():
        case Method_Other(value):
            return value
        case method:
            return type(method).__name__.removeprefix("Method_").upper()


def scheme(request: IncomingRequest) -> str:
    match request.scheme():
        case None:
            return ""
        case Scheme_Http():
            return "http"
        case Scheme_Https():
            return "https"
        case other:
            return other.value
