"""Both ends of gRPC, with the package that much of the world's is made of; messages are plain bytes.

  python grpc_peer.py serve [CERT KEY]     answers calls of /tamis.Test/*, and health checks; prints its port
  python grpc_peer.py call TARGET [CA]     does what each line of its input says, and prints a line for it
"""

import sys
import threading
from concurrent import futures

import grpc

LIMITS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def greet(context):
    """Says which filter the request has met."""
    seen = dict(context.invocation_metadata()).get("x-filter", "none")
    context.send_initial_metadata((("x-seen", seen),))
    context.set_trailing_metadata((("x-trailer", "there"),))


def unary(request, context):
    greet(context)
    word, _, rest = request.partition(b" ")
    if word == b"fail":
        context.abort(list(grpc.StatusCode)[int(rest)], "as told")
    if word == b"hang":
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()
    return request


def from_client(requests, context):
    greet(context)
    sizes = [len(request) for request in requests]
    return f"{len(sizes)} messages, {sum(sizes)} bytes".encode()


def from_server(request, context):
    greet(context)
    count, size = map(int, request.split())
    for number in range(count):
        yield bytes([number % 256]) * size


def both(requests, context):
    greet(context)
    yield from requests


def check(request, _):
    """grpc.health.v1: `service` is field 1 of the request, `status` field 1 of the response, 1 is SERVING."""
    return b"\x08\x02" if request[2:] == b"sick" else b"\x08\x01"


def serve(pair):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=LIMITS)
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "FromClient": grpc.stream_unary_rpc_method_handler(from_client),
        "FromServer": grpc.unary_stream_rpc_method_handler(from_server),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    health = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("tamis.Test", methods),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
        )
    )
    if pair:
        credentials = grpc.ssl_server_credentials([(read(pair[1]), read(pair[0]))])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


class Requests:
    """Requests that are told one after the other."""

    def __init__(self):
        self.told = threading.Condition()
        self.waiting = []

    def tell(self, request):
        with self.told:
            self.waiting.append(request)
            self.told.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.told:
            self.told.wait_for(lambda: self.waiting)
            request = self.waiting.pop(0)
        if request is None:
            raise StopIteration
        return request


def seen(call):
    return dict(call.initial_metadata() or ()).get("x-seen")


def end(call):
    trailer = dict(call.trailing_metadata() or ()).get("x-trailer")
    return f"{call.code().name}, seen {seen(call)}, trailer {trailer}"


class Caller:
    def __init__(self, channel):
        self.channel = channel
        self.stream = None

    def unary(self, *words):
        return self.single(" ".join(words).encode(), 20)

    def within(self, seconds, *words):
        return self.single(" ".join(words).encode(), float(seconds))

    def single(self, request, seconds):
        method = self.channel.unary_unary("/tamis.Test/Unary")
        reply, call = method.with_call(request, timeout=seconds)
        return f"{len(reply)} bytes {'same' if reply == request else 'differs'}, {end(call)}"

    def large(self, size):
        return self.single(bytes(range(256)) * (int(size) // 256), 60)

    def path(self, path, *words):
        reply, call = self.channel.unary_unary(path).with_call(" ".join(words).encode(), timeout=20)
        return f"{len(reply)} bytes, {end(call)}"

    def from_client(self, count, size):
        method = self.channel.stream_unary("/tamis.Test/FromClient")
        reply, call = method.with_call((b"x" * int(size) for _ in range(int(count))), timeout=20)
        return f"{reply.decode()}, {end(call)}"

    def from_server(self, count, size):
        call = self.channel.unary_stream("/tamis.Test/FromServer")(f"{count} {size}".encode(), timeout=20)
        sizes = [len(reply) for reply in call]
        return f"{len(sizes)} messages, {sum(sizes)} bytes, {end(call)}"

    def open(self):
        self.requests = Requests()
        self.stream = self.channel.stream_stream("/tamis.Test/Both")(iter(self.requests), timeout=120)
        return "open"

    def send(self, text):
        self.requests.tell(text.encode())
        return f"{next(self.stream).decode()}, seen {seen(self.stream)}"

    def close(self):
        self.requests.tell(None)
        rest = [len(reply) for reply in self.stream]
        return f"{len(rest)} more, {end(self.stream)}"

    def cancel(self):
        self.stream.cancel()
        return self.stream.code().name


def call(target, ca):
    options = LIMITS + [("grpc.enable_retries", 0)]
    if ca:
        credentials = grpc.ssl_channel_credentials(read(ca[0]))
        options.append(("grpc.ssl_target_name_override", "a.example"))
        channel = grpc.secure_channel(target, credentials, options=options)
    else:
        channel = grpc.insecure_channel(target, options=options)
    caller = Caller(channel)
    for line in sys.stdin:
        word, *words = line.split()
        try:
            said = getattr(caller, word)(*words)
        except grpc.RpcError as error:
            said = f"{error.code().name}: {error.details()}"
        print(said, flush=True)


if __name__ == "__main__":
    mode, *rest = sys.argv[1:]
    serve(rest) if mode == "serve" else call(rest[0], rest[1:])
