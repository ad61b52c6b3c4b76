// Both ends of a WebSocket, with the package that most of the world's are made of.
//   node ws.cjs serve              echoes every message; prints its port
//   node ws.cjs send URL BYTES     sends a message of that size for each line that it is given, and says `same` or
//                                  `differs` of what comes back; at the end of its input it closes, and says how it went
"use strict";
const { randomBytes } = require("node:crypto");
const { createInterface } = require("node:readline");
const { WebSocket, WebSocketServer } = require("ws");

const [mode, url, bytes] = process.argv.slice(2);

function serve() {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 }, () => console.log(server.address().port));
  server.on("connection", (socket) => {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
}

function send() {
  const socket = new WebSocket(url, { headers: { host: "a.example" } });
  let sent;
  socket.on("upgrade", (response) => console.log(`${response.statusCode} ${response.headers["x-filter"]}`));
  socket.on("open", () => {
    const lines = createInterface({ input: process.stdin });
    lines.on("line", () => socket.send((sent = randomBytes(Number(bytes)))));
    lines.on("close", () => socket.close(1000, "done"));
  });
  socket.on("message", (data) => console.log(Buffer.compare(data, sent) === 0 ? "same" : "differs"));
  socket.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
  socket.on("error", (error) => console.log(`error ${error.message}`));
}

mode === "serve" ? serve() : send();
