"""Registries of four package clients on one loopback port, each with one package made on the spot.

Names end in `.test` and are known to the tests' resolver alone.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.package_index import wheel

NAME = "registry.test"
MODULE = "example.test/tinymod"


def tarball(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(text.encode()), 0o755 if path.startswith("package/bin/") else 0o644
            archive.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


def crate() -> bytes:
    return tarball(
        {
            "tinycrate-1.0.0/Cargo.toml": '[package]\nname = "tinycrate"\nversion = "1.0.0"\nedition = "2021"\n',
            "tinycrate-1.0.0/src/lib.rs": "pub fn answer() -> u32 {\n    42\n}\n",
        }
    )


def npm_package(installed: str) -> bytes:
    """`installed` is a shell command that npm runs when it has unpacked it."""
    described = {
        "name": "tinynode",
        "version": "1.0.0",
        "bin": {"tinynode": "bin/tinynode.js"},
        "scripts": {"postinstall": installed},
    }
    return tarball(
        {
            "package/package.json": json.dumps(described),
            "package/index.js": "exports.answer = 42;\n",
            "package/bin/tinynode.js": "#!/usr/bin/env node\nconsole.log(42);\n",
        }
    )


def go_module() -> tuple[bytes, str]:
    """The module's zip, and the two lines of `go.sum` for it."""
    mod = f"module {MODULE}\n\ngo 1.19\n".encode()
    source = b"package tinymod\n\n// Answer is the answer.\nfunc Answer() int { return 42 }\n"
    files = {f"{MODULE}@v1.0.0/go.mod": mod, f"{MODULE}@v1.0.0/tinymod.go": source}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)

    def dirhash(named: dict[str, bytes]) -> str:
        lines = "".join(f"{hashlib.sha256(named[name]).hexdigest()}  {name}\n" for name in sorted(named))
        return "h1:" + base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()

    lines = f"{MODULE} v1.0.0 {dirhash(files)}\n{MODULE} v1.0.0/go.mod {dirhash({'go.mod': mod})}\n"
    return data.getvalue(), lines


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.pages.get(self.path)  # type: ignore[attr-defined]
        if self.command == "GET":
            self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200 if body is not None else 404)
        kind = "application/octet-stream"
        if body is not None and body.startswith((b"{", b"<")):
            kind = "application/json" if body.startswith(b"{") else "text/html"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Registries:
    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.port: int = server.server_address[1]
        self.asked: list[str] = server.asked  # type: ignore[attr-defined]
        self.url = f"http://{NAME}:{self.port}"
        installed = 'echo "$npm_package_name" >made-by-postinstall; echo stolen >/opt/setup/node-was-here'
        package, (module, self.go_sum) = npm_package(installed), go_module()
        self.integrity = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
        self.checksum = hashlib.sha256(crate()).hexdigest()
        self.wheel_digest = hashlib.sha256(wheel()).hexdigest()
        described = {
            "name": "tinynode",
            "dist-tags": {"latest": "1.0.0"},
            "versions": {
                "1.0.0": {
                    "name": "tinynode",
                    "version": "1.0.0",
                    "bin": {"tinynode": "bin/tinynode.js"},
                    "hasInstallScript": True,
                    "dist": {"tarball": f"{self.url}/npm/tinynode/-/tinynode-1.0.0.tgz", "integrity": self.integrity},
                }
            },
        }
        entry = {"name": "tinycrate", "vers": "1.0.0", "deps": [], "cksum": self.checksum, "features": {},
                 "yanked": False}  # fmt: skip
        link = f'<a href="/files/tinypkg-1.0-py3-none-any.whl#sha256={self.wheel_digest}">tinypkg-1.0</a>'
        server.pages = {  # type: ignore[attr-defined]
            "/npm/tinynode": json.dumps(described).encode(),
            "/npm/tinynode/-/tinynode-1.0.0.tgz": package,
            "/cargo/config.json": json.dumps({"dl": f"{self.url}/crates/{{crate}}/{{version}}"}).encode(),
            "/cargo/ti/ny/tinycrate": json.dumps(entry).encode(),
            "/crates/tinycrate/1.0.0": crate(),
            f"/go/{MODULE}/@v/list": b"v1.0.0\n",
            f"/go/{MODULE}/@v/v1.0.0.info": json.dumps({"Version": "v1.0.0", "Time": "2020-01-01T00:00:00Z"}).encode(),
            f"/go/{MODULE}/@v/v1.0.0.mod": f"module {MODULE}\n\ngo 1.19\n".encode(),
            f"/go/{MODULE}/@v/v1.0.0.zip": module,
            "/simple/tinypkg/": f"<!DOCTYPE html><html><body>{link}</body></html>".encode(),
            "/files/tinypkg-1.0-py3-none-any.whl": wheel(),
        }

    @staticmethod
    def resolve(host: str, port: int) -> list[str]:
        if host != NAME:
            raise OSError("no such name in this test")
        return ["127.0.0.1"]

    def configure(self, home: Path) -> dict[str, str]:
        """What a user of these clients writes into files of their home; the environment that leads there."""
        files = {
            ".npmrc": f"registry={self.url}/npm/\n",
            ".cargo/config.toml": '[source.crates-io]\nreplace-with = "here"\n'
            f'[source.here]\nregistry = "sparse+{self.url}/cargo/"\n',
            ".config/go/env": f"GOPROXY={self.url}/go\nGONOSUMDB=example.test/*\n",
            ".config/uv/uv.toml": f'[[index]]\nurl = "{self.url}/simple"\ndefault = true\n',
        }
        for path, text in files.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_text(text)
        return {"HOME": str(home), "XDG_CONFIG_DIRS": str(home / "none")}


@contextmanager
def registries() -> Iterator[Registries]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.asked = []  # type: ignore[attr-defined]
    made = Registries(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
