"""A package index on loopback with one wheel made on the spot, under a name that only the tests' resolver knows."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

NAME = "index.test"


def wheel(name: str = "tinypkg", version: str = "1.0") -> bytes:
    """A pure Python wheel with one module and one command."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "ANSWER = 42\n\n\ndef main():\n    print(ANSWER)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}={name}:main\n",
    }

    def digest(text: str) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")

    record = "".join(f"{path},sha256={digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return data.getvalue()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body, kind = self.server.pages.get(self.path, (None, "text/html"))  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


class PackageIndex:
    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.port: int = server.server_address[1]
        self.asked: list[str] = server.asked  # type: ignore[attr-defined]

    @property
    def url(self) -> str:
        return f"http://{NAME}:{self.port}/simple"

    @staticmethod
    def resolve(host: str, port: int) -> list[str]:
        if host != NAME:
            raise OSError("no such name in this test")
        return ["127.0.0.1"]

    @property
    def env(self) -> dict[str, str]:
        return {"PIP_INDEX_URL": self.url, "PIP_TRUSTED_HOST": NAME, "PIP_RETRIES": "0"}


@contextmanager
def package_index() -> Iterator[PackageIndex]:
    data = wheel()
    link = f'<a href="/files/tinypkg-1.0-py3-none-any.whl#sha256={hashlib.sha256(data).hexdigest()}">tinypkg-1.0</a>'
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.asked = []  # type: ignore[attr-defined]
    server.pages = {  # type: ignore[attr-defined]
        "/simple/tinypkg/": (f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), "text/html"),
        "/files/tinypkg-1.0-py3-none-any.whl": (data, "application/octet-stream"),
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield PackageIndex(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
