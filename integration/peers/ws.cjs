// Both ends of a WebSocket, with the package that most of the world's are made of; over HTTP/2 (RFC 8441) with Node's own.
//   node ws.cjs serve              echoes every message; prints its port
//   node ws.cjs serve2             the same, and takes HTTP/2 alone
//   node ws.cjs send URL BYTES     sends a message of that size for each line that it is given, and says `same` or
//                                  `differs` of what comes back; at the end of its input it closes, and says how it went
//   node ws.cjs send2 URL BYTES    the same over HTTP/2; URL is of http
"use strict";
const { randomBytes } = require("node:crypto");
const http2 = require("node:http2");
const { createInterface } = require("node:readline");
const { WebSocket, WebSocketServer } = require("ws");

const [mode, url, bytes] = process.argv.slice(2);
const LIMITS = { maxPayload: 1 << 24, maxBufferedChunks: 1 << 20, maxFragments: 1 << 17, allowSynchronousEvents: true };
// What the package sets for sockets that it has opened itself.
const OWN = { autoPong: true, closeTimeout: 30_000 };

function echo(socket) {
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
}

function serve() {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log(server.address().port));
  server.on("connection", echo);
}

function serve2() {
  const server = http2.createServer({ settings: { enableConnectProtocol: true } });
  server.on("stream", (stream, headers) => {
    if (headers[":method"] !== "CONNECT" || headers[":protocol"] !== "websocket" || headers["sec-websocket-key"]) {
      return stream.respond({ ":status": 400 }, { endStream: true });
    }
    stream.respond({ ":status": 200, "x-filter": headers[":path"] });
    const socket = new WebSocket(null, undefined, OWN);
    socket.setSocket(stream, Buffer.alloc(0), LIMITS);
    echo(socket);
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

function talk(socket) {
  let sent;
  const begin = () => {
    const lines = createInterface({ input: process.stdin });
    lines.on("line", () => socket.send((sent = randomBytes(Number(bytes)))));
    lines.on("close", () => socket.close(1000, "done"));
  };
  socket.on("message", (data) => console.log(Buffer.compare(data, sent) === 0 ? "same" : "differs"));
  socket.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
  socket.on("error", (error) => console.log(`error ${error.message}`));
  return begin;
}

function send() {
  const socket = new WebSocket(url, { headers: { host: "a.example" } });
  socket.on("upgrade", (response) => console.log(`${response.statusCode} ${response.headers["x-filter"]}`));
  socket.on("open", talk(socket));
}

function send2() {
  const { origin, pathname } = new URL(url);
  const session = http2.connect(origin);
  session.once("remoteSettings", ({ enableConnectProtocol }) => {
    if (!enableConnectProtocol) return console.log("not announced");
    const stream = session.request({
      ":method": "CONNECT", ":protocol": "websocket", ":path": pathname, ":authority": "a.example",
      "sec-websocket-version": "13",
    });
    stream.on("response", (headers) => {
      console.log(`${headers[":status"]} ${headers["x-filter"]}`);
      if (headers[":status"] !== 200) return session.close();
      const socket = new WebSocket(null, undefined, OWN);
      socket._isServer = false;
      socket.setSocket(stream, Buffer.alloc(0), LIMITS);
      socket.on("close", () => session.close());
      talk(socket)();
    });
  });
}

({ serve, serve2, send, send2 })[mode]();
