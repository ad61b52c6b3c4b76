// A service in JavaScript, as for a browser's service worker: it answers the event `fetch`. What SpiderMonkey makes of
// that is WASI 0.2.
//
// ../README.md says what each path does.

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

const DIGITS = new TextEncoder().encode("0123456789abcdef");
// What a body is written by.
const PIECE_BYTES = 64 << 10;

async function answer(request) {
  const url = new URL(request.url);
  switch (url.pathname) {
    case "/hello":
      return text(200, "hello\n");
    case "/headers":
      return text(200, seen(request, url));
    case "/echo":
      return new Response(request.body, { headers: typeOf(request) });
    case "/large":
      return large(Number(url.searchParams.get("bytes") ?? 0));
    case "/trap":
      throw new Error("as the request wished");
  }
  const status = /^\/status\/([0-9]{3})$/.exec(url.pathname);
  return status ? text(Number(status[1]), "") : text(404, "no such path\n");
}

function text(status, body) {
  const headers = { "content-type": "text/plain" };
  return new Response(body === "" ? null : body, { status, headers });
}

function seen(request, url) {
  const lines = [`${request.method} ${url.pathname}${url.search}`, `scheme: ${url.protocol.slice(0, -1)}`];
  lines.push(`authority: ${url.host}`, "");
  for (const [name, value] of request.headers) {
    lines.push(`${name}: ${value}`);
  }
  return lines.join("\n") + "\n";
}

function typeOf(request) {
  const type = request.headers.get("content-type");
  return type === null ? {} : { "content-type": type };
}

function large(bytes) {
  const piece = new Uint8Array(PIECE_BYTES).map((_, at) => DIGITS[at % DIGITS.length]);
  let left = bytes;
  const body = new ReadableStream({
    pull(controller) {
      if (left === 0) {
        controller.close();
        return;
      }
      const count = Math.min(left, PIECE_BYTES);
      left -= count;
      controller.enqueue(piece.slice(0, count));
    },
  });
  return new Response(body, { headers: { "content-length": String(bytes) } });
}
