"""An application in one container: what it serves (http, grpc, tcp) and on which port are its arguments. It is well as long
as there is no file /tmp/sick in its container."""

import http.server
import os
import socket
import sys
import time
from concurrent import futures


def well():
    return not os.path.exists("/tmp/sick")


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers whoever asks for just what the probe is to ask for."""

    def do_GET(self):
        asked = self.path == "/ready?full=1" and self.headers["X-Probe"] == "as written"
        self.send_response(200 if asked and well() else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()


def pages(port):
    http.server.ThreadingHTTPServer(("", port), Pages).serve_forever()


def health(port):
    """grpc.health.v1, for one service."""
    import grpc

    class Health(grpc.GenericRpcHandler):
        def service(self, call):
            return grpc.unary_unary_rpc_method_handler(check) if call.method == "/grpc.health.v1.Health/Check" else None

    def check(request, context):
        if request != b"\x0a\x07shop.Db":
            context.abort(grpc.StatusCode.NOT_FOUND, "another service")
        return b"\x08\x01" if well() else b"\x08\x02"

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Health()])
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def line(port):
    """Listens while it is well."""
    while True:
        while not well():
            time.sleep(0.1)
        with socket.create_server(("", port)) as server:
            server.settimeout(0.1)
            while well():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    pass


{"http": pages, "grpc": health, "tcp": line}[sys.argv[1]](int(sys.argv[2]))
