"""A Hub of our own: the few endpoints that an upload needs, on a free port."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Keeps what it was told.

    Attributes:
        requests: (method, path) of each.
        files: What was committed, by name.
        is_private: As the repository was made.
    """

    def __init__(self, token: str, is_private: bool | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.is_private = is_private
        self.requests: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append((self.command, path))
        if self.headers["Authorization"] != f"Bearer {hub.token}":
            return self._send(401, {"error": "Unauthorized"})
        if path == "/api/repos/create":
            if hub.is_private is None:
                asked = json.loads(body)  # the client's versions 1 and 2 say it in their own ways
                hub.is_private = asked.get("private", asked.get("visibility") == "private")
                return self._send(200, {"url": f"{hub.url}/me/movies"})
            return self._send(409, {"url": f"{hub.url}/me/movies"})
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            return self._send(200, {"files": files})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hub.files[value["path"]] = base64.b64decode(value["content"])
            commit = {"commitUrl": f"{hub.url}/me/movies/commit/1", "commitOid": "1"}
            return self._send(200, commit)
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        return self._send(200, {"id": "me/movies", "private": hub.is_private, "siblings": []})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(token: str, is_private: bool | None = None) -> Iterator[Hub]:
    hub = Hub(token, is_private)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
