// The battery in JavaScript.
//
// ../README.md says what it does. An instance serves many exchanges, one after the other, so a variable holds the
// exchange's state, and onRequestHead, the first hook of every exchange, sets it anew.
//
// An import whose WIT type is a result throws an Error with the WIT's error as its payload. Where nobody catches it, it
// is a trap: no edit that the host refuses goes unseen.

import clock from "tamis:filter/clock@0.1.0";
import exchange from "tamis:filter/exchange@0.1.0";
import keyValue from "tamis:filter/key-value@0.1.0";
import log from "tamis:filter/log@0.1.0";
import metrics from "tamis:filter/metrics@0.1.0";
import outbound from "tamis:filter/outbound@0.1.0";
import random from "tamis:filter/random@0.1.0";
import request from "tamis:filter/request@0.1.0";
import response from "tamis:filter/response@0.1.0";

// Lives as long as the instance.
let mark = "";

// Lives as long as the exchange.
let state = freshState();

function freshState() {
  return {
    seen: 0, // How many request heads: more than one shows a leak.
    bodyMode: null,
    responseMode: null,
    requestBytes: 0,
  };
}

export const configure = {
  configure(config) {
    mark = JSON.parse(config)?.mark;
    if (typeof mark !== "string" || mark === "") {
      throw "battery: config.mark must be a non-empty string";
    }
  },
};

export const requestHead = {
  onRequestHead() {
    const command = text(request.header("x-battery-do"));
    state = freshState();
    state.bodyMode = text(request.header("x-battery-body"));
    state.responseMode = text(request.header("x-battery-response"));
    for (const name of ["x-battery-do", "x-battery-body", "x-battery-response"]) {
      request.removeHeader(name);
    }
    state.seen += 1;
    request.setHeader("x-battery", bytes(mark));
    if (state.bodyMode === null) {
      request.passBody();
    }
    return obey(command);
  },
};

export const heldBody = {
  onHeldBody(body, complete) {
    request.setHeader("x-held", bytes(`${body.length}:${complete}`));
    const upper = (byte) => (byte >= 0x61 && byte <= 0x7a ? byte - 0x20 : byte);
    return { tag: "replace", val: body.map(upper) };
  },
};

export const requestBody = {
  onRequestBody(chunk) {
    state.requestBytes += chunk.length;
    switch (state.bodyMode) {
      case "swap":
        return { tag: "replace", val: swapped(chunk) };
      case "drop":
        return { tag: "drop" };
      default:
        return { tag: "keep" };
    }
  },

  onRequestEnd(_trailers) {
    return state.bodyMode === "swap" ? finish(`[${state.requestBytes}]`) : { tag: "keep" };
  },
};

export const responseHead = {
  onResponseHead() {
    response.setHeader("x-battery-seen", bytes(`${state.seen}:${mark}`));
    if (state.responseMode === null) {
      response.passBody();
    }
    if (response.status() === 299) {
      return { tag: "reply", val: { status: 503, headers: [], body: bytes("replaced\n") } };
    }
    return { tag: "proceed" };
  },
};

export const responseBody = {
  onResponseBody(chunk) {
    switch (state.responseMode) {
      case "swap":
        return { tag: "replace", val: swapped(chunk) };
      case "split": {
        const half = Math.floor(chunk.length / 2);
        return { tag: "pieces", val: [chunk.slice(0, half), chunk.slice(half)] };
      }
      default:
        return { tag: "keep" };
    }
  },

  onResponseEnd(_trailers) {
    return state.responseMode === "swap" ? finish("<end>") : { tag: "keep" };
  },
};

export const completion = {
  onCompletion(outcome) {
    exchange.setAttribute("battery-bytes", String(outcome.responseBytes));
  },
};

// Does what the header `x-battery-do` said.
function obey(command) {
  switch (command) {
    case "reply": {
      const headers = [{ name: "x-from", value: bytes(mark) }];
      return { tag: "reply", val: { status: 418, headers, body: bytes("short and stout\n") } };
    }
    case "trap":
      throw new Error("as the request wished");
    case "read":
      return { tag: "read-body", val: { max: 65536, over: "refuse" } };
    case "read-on":
      return { tag: "read-body", val: { max: 16, over: "continue" } };
    case "call":
      call();
      break;
    case "count":
      count();
      break;
    case "attr":
      exchange.setAttribute("battery", mark);
      break;
    case "forbidden":
      tryForbidden();
      break;
    case "echo":
      request.setHeader("x-joined", joined(request.headerValues("x-multi"), "|"));
      break;
    case "metrics":
      metrics.counterAdd("battery_calls", [{ name: "kind", value: "head" }], 1);
      metrics.histogramObserve("battery_seconds", [], 0.25);
      break;
    case "log":
      log.write("info", `battery says ${mark}`);
      break;
    case "time":
      if (clock.nowMs() > 1_600_000_000_000) {
        request.setHeader("x-time-ok", bytes("1"));
      }
      break;
    case "random":
      request.setHeader("x-random-len", bytes(String(random.bytes(16).length)));
      break;
  }
  return { tag: "proceed" };
}

function call() {
  let side;
  try {
    const answer = outbound.send({
      cluster: "side",
      method: "GET",
      authority: null,
      target: `/side?from=${mark}`,
      headers: [],
      body: new Uint8Array(),
      timeoutMs: null,
    });
    side = joined([bytes(String(answer.status)), answer.body], ":");
  } catch (error) {
    side = bytes(`error:${error.payload}`);
  }
  request.setHeader("x-side", side);
}

function count() {
  let sum;
  try {
    sum = String(keyValue.add("count", 1, null));
  } catch (error) {
    sum = `error:${error.payload}`;
  }
  request.setHeader("x-count", bytes(sum));
}

function tryForbidden() {
  let edit = "ok";
  try {
    request.setHeader("content-length", bytes("5"));
  } catch (error) {
    edit = error.payload;
  }
  request.setHeader("x-edit", bytes(edit));
}

function finish(data) {
  return { tag: "finish", val: { data: bytes(data), trailers: null } };
}

function swapped(chunk) {
  return chunk.map((byte) => (byte === 0x61 ? 0x62 : byte));
}

function joined(lists, separator) {
  const parts = lists.flatMap((list, index) => (index > 0 ? [bytes(separator), list] : [list]));
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

// QuickJS has no TextEncoder: the string as UTF-8.
function bytes(string) {
  const utf8 = encodeURIComponent(string).replace(/%(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  return Uint8Array.from(utf8, (character) => character.charCodeAt(0));
}

// Nor a TextDecoder: a header's bytes, each as the character of that number. Absent stays absent.
function text(value) {
  return value === null ? null : String.fromCharCode(...value);
}
