"""git over smart HTTP (git's own http-backend), open to exactly the tokens of the double's registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from worker.demo.github_double.bare import BareRepositories, environment
from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.serving import LoopbackServer, Reply, Request
from worker.demo.github_double.tokens import Tokens, from_authorization

_TARGET = re.compile(r"^/([^/]+/[^/]+?)(?:\.git)?(/(?:info/refs|git-upload-pack|git-receive-pack))$")


class GitHttp:
    """401 without a known token (as for a private repository), 404 for a repository the token does not reach,
    403 for a push without contents:write or a fetch without contents:read."""

    def __init__(self, repositories: BareRepositories, tokens: Tokens, traffic: Traffic) -> None:
        exec_path = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
        self._backend = Path(exec_path) / "git-http-backend"
        if not self._backend.exists():
            raise RuntimeError(f"git has no http-backend at {self._backend}: install the full git package")
        self._repositories = repositories
        self._tokens = tokens
        self._server = LoopbackServer("double-git", lambda request: traffic.serve("git", request, self._answer))
        self.url = self._server.url
        self.stop = self._server.stop

    def _answer(self, request: Request) -> Reply:
        target = _TARGET.match(request.bare_path)
        if target is None:
            return Reply(404)
        repository, service = target.groups()
        header = request.headers.get("authorization")
        token = self._tokens.get(from_authorization(header)) if (header or "").lower().startswith("basic ") else None
        if token is None:
            return Reply(401, (("WWW-Authenticate", 'Basic realm="GitHub"'),), b"Invalid credentials\n")
        if not token.reaches(repository) or not self._repositories.exists(repository):
            return Reply(404, (), b"Repository not found.\n")
        writes = "git-receive-pack" in request.path
        if not token.may("write" if writes else "read"):
            return Reply(403, (), b"Write access to repository not granted.\n" if writes else b"Access denied.\n")
        return self._backend_reply(request, f"/{self._repositories.path(repository).name}{service}", repository)

    def _backend_reply(self, request: Request, path_info: str, repository: str) -> Reply:
        variables = environment() | {
            "GIT_PROJECT_ROOT": str(self._repositories.path(repository).parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path_info,
            "QUERY_STRING": request.path.partition("?")[2],
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(request.body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
            "GIT_PROTOCOL": request.headers.get("git-protocol", ""),
            "REMOTE_USER": "x-access-token",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run([self._backend], input=request.body, env=variables, capture_output=True, check=False)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        if not head:
            return Reply(500, (), done.stderr)
        headers = [tuple(line.split(": ", 1)) for line in head.decode("latin-1").split("\r\n")]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        return Reply(status, [(name, value) for name, value in headers if name != "Status"], body)
