"""Requests without the token are refused; the others say who let them pass."""

import traceback

from wit_world import exports
from wit_world.imports import log, request
from wit_world.imports.log import Level
from wit_world.imports.types import (
    Header,
    Reply,
    RequestVerdict,
    RequestVerdict_Proceed,
    RequestVerdict_Reply,
)


class RequestHead(exports.RequestHead):
    def on_request_head(self) -> RequestVerdict:
        try:
            return judge()
        except Exception as error:
            # Whoever reads the log finds why it failed. Without the lines of source: there are no files to read them from.
            way = [f"{frame.f_code.co_name}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
            log.write(Level.ERROR, f"{error!r} at {', '.join(way)}")
            raise


def judge() -> RequestVerdict:
    if request.header("x-token") != b"sesame":
        headers = [Header("content-type", b"text/plain")]
        return RequestVerdict_Reply(Reply(403, headers, b"a token, please\n"))
    request.set_header("x-filter", b"@NAME@")
    return RequestVerdict_Proceed()
