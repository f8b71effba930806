"""A file server on 127.0.0.1 that resumes downloads as upstream's do, and fails when told to."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from examples.classification import images, published, texts
from examples.language_modeling import prepare as language_modeling
from examples.translation import prepare as translation

REMOTES = [
    *(remote for data in translation.PUBLISHED.values() for remote in data.remotes),
    *language_modeling.REMOTES.values(),
    *(published.LRA, published.SPEECH, texts.IMDB, images.CIFAR10),
]


class Server(ThreadingHTTPServer):
    """Serves the bytes in `files` by their names.

    `cuts`: the next connections break off after so many bytes each. `versions`: the files' ETags;
    None is for a server that sends none. `requests` notes the name and the range of each request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.versions, self.requests, self.cuts = {}, {}, [], []

    def address(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name that http.server calls
        name, span, server = self.path.lstrip("/"), self.headers["Range"], self.server
        server.requests.append((name, span))
        if name not in server.files:
            self.send_error(404)
            return
        body, version, start = server.files[name], server.versions.get(name, '"1"'), 0
        if span and version and self.headers["If-Range"] == version:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            self.send_response(206 if start < len(body) else 416)
        else:
            self.send_response(200)
        if version:
            self.send_header("ETag", version)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *args):
        pass


@contextmanager
def running_server():
    """A server; the variables of all downloads lead to it, by the names of the variables."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        for remote in REMOTES:
            patch.setenv(f"{remote.name}_URL", server.address(remote.name))
        yield server
    server.shutdown()
    server.server_close()
    thread.join()
