"""A GitHub App registered by a person from our manifest: the page that sends it to GitHub, and the way back.

The flow is that of "Registering a GitHub App from a manifest". A browser has to post the manifest, so there is a page
for it: on loopback at an address that can't be guessed, or as a file where no browser reaches this machine. What comes
back is a code that is worth the App's key and secret, so it is taken only together with the state that went out.
"""

from __future__ import annotations

import hmac
import html
import json
import re
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

from worker.adapters.forge.needs import EVENTS, PERMISSIONS
from worker.errors import AddressUnavailable

HOOK_PATH = "/webhooks/github"
_CODE = re.compile(r"[A-Za-z0-9_-]{1,200}")


def hook_url(public_url: str) -> str:
    return public_url.rstrip("/") + HOOK_PATH


def web_url(api_url: str) -> str:
    """Where people see what an API address serves: api.github.com, a server's /api/v3, or an api. host of GitHub's."""
    parts = urlsplit(api_url)
    host = parts.netloc.removeprefix("api.") if parts.path in ("", "/") else parts.netloc
    return f"{parts.scheme}://{host}"


def register_url(api_url: str, organization: str | None, state: str) -> str:
    owner = f"/organizations/{quote(organization, safe='')}" if organization else ""
    return f"{web_url(api_url)}{owner}/settings/apps/new?state={state}"


def manifest(*, name: str, public_url: str, redirect_url: str) -> dict[str, Any]:
    """What GitHub is asked to make: a private App with the permissions and events of `needs`."""
    return {
        "name": name,
        "url": public_url,
        "description": "Turns issues into pull requests on its owner's own GPUs.",
        "hook_attributes": {"url": hook_url(public_url), "active": True},
        "redirect_url": redirect_url,
        "public": False,
        "default_permissions": {needed.name: needed.level for needed in PERMISSIONS},
        "default_events": [needed.name for needed in EVENTS],
    }


def page(target: str, sent: Mapping[str, Any]) -> str:
    """A page with one button that posts the manifest."""
    value = html.escape(json.dumps(sent), quote=True)
    return (
        "<!doctype html><meta charset=utf-8><title>devstral-fix: register a GitHub App</title>"
        "<h1>Register a GitHub App</h1><p>GitHub shows what is asked for, and lets you change the name.</p>"
        f'<form method=post action="{html.escape(target, quote=True)}">'
        f'<input type=hidden name=manifest value="{value}"><button>Go on to GitHub</button></form>'
    )


def code_of(pasted: str, state: str) -> str | None:
    """The code in what a person pasted: the address that GitHub sent them to, whose state has to be ours, or the code
    alone. None where there is none."""
    text = pasted.strip()
    if _CODE.fullmatch(text):
        return text
    try:
        given = parse_qs(urlsplit(text).query)
    except ValueError:
        return None
    code, states = given.get("code", [""])[0], given.get("state", [""])
    return code if _CODE.fullmatch(code) and hmac.compare_digest(states[0].encode(), state.encode()) else None


class Landing:
    """The page on loopback, and where GitHub sends the person back to, while the block lasts. `url` is for the person;
    `state` went out with the manifest. AddressUnavailable when the port is taken."""

    def __init__(self, *, api_url: str, organization: str | None, name: str, public_url: str, port: int = 0) -> None:
        self.state = secrets.token_urlsafe(32)
        self._path = f"/{secrets.token_urlsafe(16)}"
        self._code: str | None = None
        self._came = threading.Event()
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise AddressUnavailable(f"127.0.0.1:{port} can't be listened at: {error.strerror}") from error
        self._server.landing = self
        self._base = f"http://127.0.0.1:{self._server.server_port}"
        target = register_url(api_url, organization, self.state)
        sent = manifest(name=name, public_url=public_url, redirect_url=f"{self._base}/created")
        self.page = page(target, sent)
        self._allowed = f"{urlsplit(target).scheme}://{urlsplit(target).netloc}"
        self.url = self._base + self._path

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> str | None:
        """The code, once GitHub sent the person back; None when that took longer."""
        return self._code if self._came.wait(seconds) else None

    def answer(self, path: str, host: str) -> tuple[int, str, str]:
        """Status, page, and where forms of the page may go."""
        parts = urlsplit(path)
        if host != urlsplit(self._base).netloc:  # a name that was made to point here
            return 421, "<p>Not this address.", "'none'"
        if parts.path == self._path:
            return 200, self.page, self._allowed
        if parts.path != "/created" or self._came.is_set():
            return 404, "<p>There is nothing here.", "'none'"
        code = code_of(path, self.state)
        if code is None:
            return 400, "<p>This does not belong to the set-up that runs here. Nothing was changed.", "'none'"
        self._code = code
        self._came.set()
        return 200, "<p>Done: devstral-fix goes on in the terminal. This page can be closed.", "'none'"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    landing: Landing


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        status, text, forms = self.server.landing.answer(self.path, self.headers.get("Host", ""))
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", f"default-src 'none'; form-action {forms}; frame-ancestors 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet: the request's line holds the code."""
