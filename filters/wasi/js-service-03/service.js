// A service in JavaScript for WASI 0.3, in terms of its interfaces: what QuickJS makes of them.
//
// ../README.md says what each path does.

import types from "wasi:http/types@0.3.0";

const { Fields, Request, Response } = types;

// `0123456789abcdef`.
const DIGITS = bytes("0123456789abcdef");
// What a body is written by.
const PIECE_BYTES = 64 << 10;

export const handler = {
  async handle(request) {
    const target = request.getPathWithQuery() ?? "";
    const [path, query] = target.split("?");
    switch (path) {
      case "/hello":
        return text(200, "hello\n");
      case "/headers":
        return text(200, seen(request, target));
      case "/echo":
        return echo(request);
      case "/trailers":
        return respond(200, [["trailer", "x-last"]], async (body) => {
          await body.writeAll(bytes("trailed\n"));
          return Fields.fromList([["x-last", bytes("1")]]);
        });
      case "/large":
        return large(Number(/(?:^|&)bytes=([0-9]+)/.exec(query ?? "")?.[1] ?? 0));
      case "/error":
        throw { tag: "internal-error", val: "as wished" };
      case "/trap":
        throw new Error("as the request wished");
    }
    const status = /^\/status\/([0-9]{3})$/.exec(path);
    return status ? text(Number(status[1]), "") : text(404, "no such path\n");
  },
};

function text(status, text) {
  const body = bytes(text);
  const headers = [["content-type", "text/plain"], ["content-length", String(body.length)]];
  return respond(status, headers, async (out) => {
    await out.writeAll(body);
    return null;
  });
}

function echo(request) {
  const received = request.getHeaders();
  const headers = ["content-type", "trailer"].flatMap((name) => received.get(name).map((value) => [name, value]));
  received[Symbol.dispose]();
  const done = wit.Future(wit.Future.types.RESULT_VOID_ERROR_CODE);
  const [body, trailers] = Request.consumeBody(request, done.readable);
  return respond(200, headers, async (out) => {
    for await (const piece of body) {
      await out.writeAll(piece);
    }
    const last = await trailers.read();
    done.writable.write({ tag: "ok" });
    return last.tag === "ok" ? last.val : null;
  });
}

function large(length) {
  const piece = new Uint8Array(PIECE_BYTES).map((_, at) => DIGITS[at % DIGITS.length]);
  return respond(200, [["content-length", String(length)]], async (out) => {
    for (let left = length; left > 0; left -= PIECE_BYTES) {
      await out.writeAll(left < PIECE_BYTES ? piece.slice(0, left) : piece);
    }
    return null;
  });
}

// The head now, and the body by `write` when the head is out; what that gives are the trailers.
function respond(status, headers, write) {
  const list = headers.map(([name, value]) => [name, typeof value === "string" ? bytes(value) : value]);
  const body = wit.Stream(wit.Stream.U8);
  const trailers = wit.Future(wit.Future.types.RESULT_OPTION_OTHER_ERROR_CODE);
  const [response, sent] = Response["new"](Fields.fromList(list), body.readable, trailers.readable);
  response.setStatusCode(status);
  finish(write, body.writable, trailers.writable, sent);
  return response;
}

async function finish(write, body, trailers, sent) {
  let last = null;
  try {
    last = await write(body);
  } finally {
    body.drop();
    await trailers.write({ tag: "ok", val: last });
    sent.drop();
  }
}

function seen(request, target) {
  const method = request.getMethod();
  const scheme = request.getScheme();
  const word = (variant) => (variant.tag === "other" ? variant.val : variant.tag);
  const lines = [`${method.tag === "other" ? method.val : method.tag.toUpperCase()} ${target}`];
  lines.push(`scheme: ${scheme === null ? "" : word(scheme).toLowerCase()}`);
  lines.push(`authority: ${request.getAuthority() ?? ""}`, "");
  for (const [name, value] of request.getHeaders().copyAll()) {
    lines.push(`${name}: ${String.fromCharCode(...value)}`);
  }
  return lines.join("\n") + "\n";
}

function bytes(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}
