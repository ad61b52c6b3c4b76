// An origin on Node's own server, as an application would write it. Says its port, and ends with its input.
const http = require("node:http");
const crypto = require("node:crypto");

const pieces = (response, count) => {
  for (let index = 0; index < count; index++) response.write(`piece ${index}\n`);
};

const routes = {
  "/sized": (request, response) => {
    response.setHeader("content-length", 5);
    response.end("hello");
  },
  "/chunked": (request, response) => {
    pieces(response, 100);
    response.end();
  },
  "/trailers": (request, response) => {
    response.setHeader("trailer", "x-sum");
    pieces(response, 3);
    response.addTrailers({ "x-sum": "abc" });
    response.end();
  },
  "/empty": (request, response) => response.writeHead(204).end(),
  "/fresh": (request, response) => response.writeHead(304, { etag: '"one"' }).end(),
  "/cookies": (request, response) => {
    response.setHeader("set-cookie", ["a=1; Path=/", "b=2"]);
    response.end(String(request.headers.cookie));
  },
  "/echo": (request, response) => request.pipe(response),
  "/sum": (request, response) => {
    const sum = crypto.createHash("sha256");
    let length = 0;
    request.on("data", (piece) => {
      sum.update(piece);
      length += piece.length;
    });
    request.on("end", () => response.end(`${length} ${sum.digest("hex")}`));
  },
  "/hints": (request, response) => {
    response.writeEarlyHints({ link: "</style.css>; rel=preload" });
    response.end("late");
  },
  // Answers before the body is there, and never reads it.
  "/early": (request, response) => response.writeHead(413).end("too large"),
  "/one-zero": (request, response) => {
    response.shouldKeepAlive = false;
    response.useChunkedEncodingByDefault = false;
    response.end("until the end");
  },
};

const server = http.createServer((request, response) => {
  const route = routes[request.url.split("?")[0]];
  if (route) route(request, response);
  else response.writeHead(404).end("nothing here");
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
