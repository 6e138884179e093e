"""What emulate lacks of GitHub Apps: their registration from a manifest, and their webhook's settings and deliveries.

Our own reading (see `front`) of "Registering a GitHub App from a manifest", and in GitHub's REST description of "Create
a GitHub App from a manifest", "Get a webhook configuration for an app", "Update a webhook configuration for an app",
"List deliveries for an app webhook" and "Redeliver a delivery for an app webhook".
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.hop import Hop, sign
from worker.demo.github_double.serving import Reply, Request

_CONVERSION = re.compile(r"^/app-manifests/([^/]+)/conversions$")
_ATTEMPT = re.compile(r"^/app/hook/deliveries/(\d+)/attempts$")
_CONFIG, _DELIVERIES = "/app/hook/config", "/app/hook/deliveries"
_NOT_FOUND = {"message": "Not Found", "documentation_url": "https://docs.github.com/rest/apps", "status": "404"}


class Apps:
    """`app` is what a conversion answers, secrets included; the double has one App, which every manifest registers."""

    def __init__(
        self, forward: Callable[[Request], Reply], hop: Hop, traffic: Traffic, app: Callable[[], dict[str, Any]]
    ) -> None:
        self._forward = forward
        self._hop = hop
        self._traffic = traffic
        self._app = app
        self._codes: dict[str, Mapping[str, Any]] = {}
        self.manifests: list[Mapping[str, Any]] = []  #: those of which an App was made
        self.secret: str | None = None  #: that a change of the webhook's settings set
        self.url: str | None = None  #: likewise

    def register(self, manifest: Mapping[str, Any]) -> str:
        """A person pressed the button on GitHub's page: the code that they are sent back with."""
        code = secrets.token_hex(20)
        self._codes[code] = manifest
        return code

    def answer(self, request: Request) -> Reply | None:
        converted = _CONVERSION.match(request.bare_path)
        if converted and request.method == "POST":
            self._traffic.repaired("create an App from a manifest")
            manifest = self._codes.pop(converted[1], None)  # a code can be used once
            if manifest is None:
                return Reply.of(404, _NOT_FOUND)
            self.manifests.append(manifest)
            return Reply.of(201, self._app())
        attempt = _ATTEMPT.match(request.bare_path)
        if not attempt and request.bare_path not in (_CONFIG, _DELIVERIES):
            return None
        who = self._forward(Request("GET", "/app", request.headers, b""))  # only as an App
        if who.status != 200:
            return who
        if attempt:
            return self._again(int(attempt[1]))
        if request.bare_path == _CONFIG:
            return self._config(request)
        self._traffic.repaired("list deliveries")
        return Reply.of(200, self._deliveries())

    def _config(self, request: Request) -> Reply:
        self._traffic.repaired("webhook configuration")
        if request.method == "PATCH":
            changed = request.json()
            self.secret = changed.get("secret", self.secret)
            self.url = changed.get("url", self.url)
        url = self.url or self._hop.receiver_url or self._hop.url
        return Reply.of(200, {"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": url})

    def _deliveries(self) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "guid": record.guid,
                "status": "OK" if record.status is not None and record.status < 300 else "Invalid HTTP Response",
                "status_code": record.status or 0,
                "event": record.event,
                "action": record.action,
                "redelivery": False,
            }
            for number, record in reversed(list(enumerate(self._hop.records(), 1)))
        ]

    def _again(self, number: int) -> Reply:
        self._traffic.repaired("redeliver")
        records = self._hop.records()
        if not 0 < number <= len(records):
            return Reply.of(404, _NOT_FOUND)
        record = records[number - 1]
        headers = dict(record.headers)
        secret = self.secret or str(self._app()["webhook_secret"])
        headers["x-hub-signature-256"] = sign(secret.encode(), record.body)
        self._hop.send(record.guid, headers, record.body)
        return Reply.of(202, {})
