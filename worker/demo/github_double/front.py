"""The double's API address: a proxy before emulate that checks tokens, injects faults, repairs gaps.

What the repairs answer is our own reading of GitHub's REST documentation, not independent evidence: a test that is
green only through a repair shows that two readings of ours agree. Each answer that a repair gave is named in the
request log (`Logged.repair`).
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.repairs import Repairs
from worker.demo.github_double.serving import Headers, LoopbackServer, Reply, Request
from worker.demo.github_double.tokens import Token, Tokens, from_authorization

_HOP_BY_HOP = {"host", "content-length", "connection", "keep-alive", "transfer-encoding", "accept-encoding"}
_BAD_CREDENTIALS = {"message": "Bad credentials", "documentation_url": "https://docs.github.com/rest", "status": "401"}


class Front:
    def __init__(self, tokens: Tokens, traffic: Traffic) -> None:
        self._tokens = tokens
        self._traffic = traffic
        self._upstream = ""
        self._repairs: Repairs | None = None
        self._server = LoopbackServer("double-api", lambda request: traffic.serve("api", request, self._process))
        self.url = self._server.url
        self.stop = self._server.stop

    def connect(self, upstream: str, repairs: Callable[[Callable[[Request], Reply]], Repairs]) -> None:
        """Name the emulator. (It must be told our address first, so it starts after us.)"""
        self._upstream = upstream
        self._repairs = repairs(self._forward)

    def _process(self, request: Request) -> Reply:
        if self._repairs is None:
            return Reply.of(503, {"message": "the double is starting"})
        header = request.headers.get("authorization")
        value = from_authorization(header)
        # An App's JWT is emulate's to verify, which it does; unknown tokens it would take for a fallback user.
        if header is not None and not (value or "").startswith("eyJ") and self._tokens.get(value) is None:
            self._traffic.repaired("unknown token")
            return Reply.of(401, _BAD_CREDENTIALS)
        reply = self._repairs.before(request)
        if reply is None:
            reply = self._repairs.after(request, self._forward(request))
        if request.method == "POST" and request.bare_path.endswith("/access_tokens") and reply.status == 201:
            self._register(json.loads(reply.body))
        return self._repairs.conditional(request, reply)

    def _register(self, minted: dict[str, Any]) -> None:
        names = [repository["full_name"].lower() for repository in minted.get("repositories", [])]
        narrowed = minted.get("repository_selection") == "selected"
        token = Token(permissions=dict(minted["permissions"]), repositories=frozenset(names) if narrowed else None)
        self._tokens.add(minted["token"], token)

    def _forward(self, request: Request) -> Reply:
        upstream = urllib.parse.urlsplit(self._upstream)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
        try:
            connection.request(request.method, request.path, body=request.body or None, headers=headers)
            response = connection.getresponse()
            body = response.read().replace(self._upstream.encode(), self.url.encode())
            kept: Headers = [
                (name, value.replace(self._upstream, self.url))  # `Link` and `Location` name the host that was asked
                for name, value in response.getheaders()
                if name.lower() not in _HOP_BY_HOP
            ]
            return Reply(response.status, kept, body)
        except OSError as error:
            return Reply.of(502, {"message": f"emulate does not answer: {error}"})
        finally:
            connection.close()
