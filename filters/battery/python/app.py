"""The battery in Python.

../README.md says what it does. An instance serves many exchanges, one after the other, so a variable holds the
exchange's state, and `on_request_head`, the first hook of every exchange, sets it anew.

An import whose WIT type is a result raises its error, which nobody catches where the filter is to trap: no edit that the
host refuses goes unseen.
"""

import json
from dataclasses import dataclass
from typing import List, Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.completion import Outcome
from wit_world.imports import clock, exchange, key_value, log, metrics, outbound, random, request, response
from wit_world.imports.types import (
    BodyVerdict,
    BodyVerdict_Drop,
    BodyVerdict_Keep,
    BodyVerdict_Pieces,
    BodyVerdict_Replace,
    Ending,
    EndVerdict,
    EndVerdict_Finish,
    EndVerdict_Keep,
    Header,
    HeldVerdict,
    HeldVerdict_Replace,
    OverMax,
    ReadBody,
    Reply,
    RequestVerdict,
    RequestVerdict_Proceed,
    RequestVerdict_ReadBody,
    RequestVerdict_Reply,
    Verdict,
    Verdict_Proceed,
    Verdict_Reply,
)


@dataclass
class State:
    """What an exchange leaves for its later hooks."""

    seen: int = 0  # How many request heads: more than one shows a leak.
    body_mode: Optional[bytes] = None
    response_mode: Optional[bytes] = None
    request_bytes: int = 0


# Lives as long as the instance.
mark = ""
# Lives as long as the exchange.
state = State()


class Configure(exports.Configure):
    def configure(self, config: str) -> None:
        global mark
        value = json.loads(config)
        mark = value.get("mark") if isinstance(value, dict) else None
        if not isinstance(mark, str) or mark == "":
            raise Err("battery: config.mark must be a non-empty string")


class RequestHead(exports.RequestHead):
    def on_request_head(self) -> RequestVerdict:
        global state
        command = request.header("x-battery-do")
        state = State(
            body_mode=request.header("x-battery-body"),
            response_mode=request.header("x-battery-response"),
        )
        for name in ("x-battery-do", "x-battery-body", "x-battery-response"):
            request.remove_header(name)
        state.seen += 1
        request.set_header("x-battery", mark.encode())
        if state.body_mode is None:
            request.pass_body()
        return obey(command)


class HeldBody(exports.HeldBody):
    def on_held_body(self, body: bytes, complete: bool) -> HeldVerdict:
        request.set_header("x-held", b"%d:%s" % (len(body), b"true" if complete else b"false"))
        return HeldVerdict_Replace(body.upper())


class RequestBody(exports.RequestBody):
    def on_request_body(self, chunk: bytes) -> BodyVerdict:
        state.request_bytes += len(chunk)
        if state.body_mode == b"swap":
            return BodyVerdict_Replace(chunk.replace(b"a", b"b"))
        if state.body_mode == b"drop":
            return BodyVerdict_Drop()
        return BodyVerdict_Keep()

    def on_request_end(self, trailers: List[Header]) -> EndVerdict:
        if state.body_mode == b"swap":
            return finish(b"[%d]" % state.request_bytes)
        return EndVerdict_Keep()


class ResponseHead(exports.ResponseHead):
    def on_response_head(self) -> Verdict:
        response.set_header("x-battery-seen", f"{state.seen}:{mark}".encode())
        if state.response_mode is None:
            response.pass_body()
        if response.status() == 299:
            return Verdict_Reply(Reply(503, [], b"replaced\n"))
        return Verdict_Proceed()


class ResponseBody(exports.ResponseBody):
    def on_response_body(self, chunk: bytes) -> BodyVerdict:
        if state.response_mode == b"swap":
            return BodyVerdict_Replace(chunk.replace(b"a", b"b"))
        if state.response_mode == b"split":
            half = len(chunk) // 2
            return BodyVerdict_Pieces([chunk[:half], chunk[half:]])
        return BodyVerdict_Keep()

    def on_response_end(self, trailers: List[Header]) -> EndVerdict:
        return finish(b"<end>") if state.response_mode == b"swap" else EndVerdict_Keep()


class Completion(exports.Completion):
    def on_completion(self, outcome: Outcome) -> None:
        exchange.set_attribute("battery-bytes", str(outcome.response_bytes))


def obey(command: Optional[bytes]) -> RequestVerdict:
    """Does what the header `x-battery-do` said."""
    match command:
        case b"reply":
            return RequestVerdict_Reply(Reply(418, [Header("x-from", mark.encode())], b"short and stout\n"))
        case b"trap":
            raise RuntimeError("as the request wished")
        case b"read":
            return RequestVerdict_ReadBody(ReadBody(65536, OverMax.REFUSE))
        case b"read-on":
            return RequestVerdict_ReadBody(ReadBody(16, OverMax.CONTINUE))
        case b"call":
            call()
        case b"count":
            count()
        case b"attr":
            exchange.set_attribute("battery", mark)
        case b"forbidden":
            try_forbidden()
        case b"echo":
            request.set_header("x-joined", b"|".join(request.header_values("x-multi")))
        case b"metrics":
            metrics.counter_add("battery_calls", [metrics.Label("kind", "head")], 1)
            metrics.histogram_observe("battery_seconds", [], 0.25)
        case b"log":
            log.write(log.Level.INFO, f"battery says {mark}")
        case b"time":
            if clock.now_ms() > 1_600_000_000_000:
                request.set_header("x-time-ok", b"1")
        case b"random":
            request.set_header("x-random-len", b"%d" % len(random.bytes(16)))
    return RequestVerdict_Proceed()


def call() -> None:
    try:
        answer = outbound.send(outbound.Call("side", "GET", None, f"/side?from={mark}", [], b"", None))
        side = b"%d:%s" % (answer.status, answer.body)
    except Err as error:
        side = b"error:" + name(error)
    request.set_header("x-side", side)


def count() -> None:
    try:
        total = b"%d" % key_value.add("count", 1, None)
    except Err as error:
        total = b"error:" + name(error)
    request.set_header("x-count", total)


def try_forbidden() -> None:
    edit = b"ok"
    try:
        request.set_header("content-length", b"5")
    except Err as error:
        edit = name(error)
    request.set_header("x-edit", edit)


def name(error: Err) -> bytes:
    """The error as the contract names it."""
    return error.value.name.lower().replace("_", "-").encode()


def finish(data: bytes) -> EndVerdict:
    return EndVerdict_Finish(Ending(data, None))
