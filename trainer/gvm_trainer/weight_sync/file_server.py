"""A small HTTP server on rank 0 from which the rollout servers fetch weight shards.

Serves one directory, read-only, to who knows the token. Knows nothing of what is in the files.
"""

import hmac
import shutil
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

IDLE_SECONDS = 60.0
"""A client that neither reads nor writes for so long is dropped."""


class FileServer:
    """Runs in threads of its own from construction to `close`.

    Args:
        directory: its files are served as /NAME, in subfolders as /FOLDER/NAME.
        host: the address to bind; "" for all.
        port: 0 takes a free one; see `port`.
        token: clients must send it as `Authorization: Bearer TOKEN`.
    """

    def __init__(self, directory: Path, *, host: str, port: int, token: str) -> None:
        root = directory.resolve()

        class Handler(_Handler):
            expected = f"Bearer {token}".encode()
            directory = root

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="weights", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    expected: bytes
    directory: Path
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.expected):
            self.send_error(HTTPStatus.UNAUTHORIZED)
            return
        path = (self.directory / self.path.lstrip("/")).resolve()
        if not (path.is_relative_to(self.directory) and path.is_file()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, 1024 * 1024)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the sync itself reports what went wrong."""
