"""A file server on 127.0.0.1 that resumes downloads as upstream's do, and fails when told to."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves the bytes in `files` by their paths.

    `cuts`: the next connections break off after so many bytes each. `versions`: the files' ETags;
    None is for a server that sends none. `requests` notes the path and the range of each request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.versions, self.requests = {}, {}, []
        self.cuts = []

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name that http.server calls
        path = self.path.lstrip("/")
        self.server.requests.append((path, self.headers["Range"]))
        if path not in self.server.files:
            self.send_error(404)
            return
        data = self.server.files[path]
        version = self.server.versions.get(path, '"1"')
        span = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if span and version and self.headers["If-Range"] == version:
            start = int(span[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            start = 0
            self.send_response(200)
        if version:
            self.send_header("ETag", version)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *args):
        pass


@contextmanager
def running_server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
