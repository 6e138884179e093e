"""`devstral-fix github`: an App registered by a person, a token, checks and rotations, against the GitHub double."""

from __future__ import annotations

import html
import json
import os
import re
import stat
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from api import webhooks
from api.events import Names
from tests.github_double import running_double
from worker.adapters.forge.needs import EVENTS, PERMISSIONS
from worker.cli import cli
from worker.connecting import env_file
from worker.connecting.registration import HOOK_PATH
from worker.demo.github_double import GitHubDouble
from worker.demo.github_double.serving import LoopbackServer, Reply, Request
from worker.settings import PREFIX, Settings

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Api:
    """Our receiver, by its own code, with the secrets that it was started with."""

    secrets: list[str] = field(default_factory=list)
    status: int | None = None
    location: str = ""
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = LoopbackServer("api", self.answer)
        self.url = self.server.url

    def answer(self, request: Request) -> Reply:
        self.asked.append(request.bare_path)
        if self.status is not None:
            return Reply.of(self.status, {}, (("Location", self.location),) if self.location else ())
        names = Names(trigger_label="devstral-fix", mention="")
        for secret in self.secrets:
            parsed = webhooks.parse(request.headers, request.body, secret=secret.encode(), names=names)
            if isinstance(parsed, webhooks.Received):
                return Reply.of(202, {})
        return Reply.of(401, {})

    def restart(self, path: Path) -> None:
        there = env_file.read(path)
        both = (there.get(f"{PREFIX}WEBHOOK_SECRET"), there.get(f"{PREFIX}WEBHOOK_SECRET_PREVIOUS"))
        self.secrets = [secret for secret in both if secret]


@pytest.fixture(scope="module")
def module_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHubDouble]:
    with running_double(tmp_path_factory.mktemp("double")) as double:
        double.create_repository("acme/widgets", {"a.py": "x = 1\n"})
        yield double


@pytest.fixture
def double(module_double: GitHubDouble) -> Iterator[GitHubDouble]:
    yield module_double
    module_double.clear_faults()
    module_double.apps.secret = module_double.apps.url = None


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.server.stop()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(PREFIX) and name != "DEVSTRAL_FIX_TEST_RUN":
            monkeypatch.delenv(name)
    return tmp_path


def run(*arguments: str, status: int = 0, stdin: str = "") -> str:
    done = CliRunner().invoke(cli, ["github", *arguments], input=stdin)
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def configured(double: GitHubDouble, api: Api, **changes: str | None) -> Path:
    """A file of settings as a set-up leaves it, and a receiver that was started with it."""
    path = Path(".env")
    values = {
        "GITHUB_URL": double.api_url,
        "GITHUB_APP_ID": str(double.app_id),
        "GITHUB_APP_KEY_FILE": str(double.private_key_path),
        "WEBHOOK_SECRET": double.webhook_secret,
        "PUBLIC_URL": api.url,
        **changes,
    }
    env_file.change(path, {PREFIX + name: value for name, value in values.items()})
    double.receiver_url = api.url + HOOK_PATH
    api.restart(path)
    return path


def findings(*arguments: str, status: int = 0) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(run("check", "--json", *arguments, status=status))["findings"]:
        found.setdefault(finding["name"], []).append(finding)
    return found


# -- an App


def start(double: GitHubDouble, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and the address of its page."""
    argv = [sys.executable, "-m", "worker.cli", "github", "setup", "--api-url", double.api_url, *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    return process, process.stdout.readline().rpartition(" ")[2].strip()


def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    try:
        with DIRECT.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode(), dict(refused.headers)


def form(page: str) -> tuple[str, dict[str, object]]:
    """Where the page's form goes, and the manifest in it."""
    action = re.search(r'action="([^"]+)"', page)
    value = re.search(r'name=manifest value="([^"]+)"', page)
    assert action is not None
    assert value is not None
    return html.unescape(action[1]), json.loads(html.unescape(value[1]))


def test_an_app_is_registered_from_a_browser(double: GitHubDouble, api: Api) -> None:
    process, url = start(double, "--url", f"{api.url}/", "--organization", "acme", "--name", "fixer")
    api.secrets = [double.webhook_secret]
    status, page, headers = get(url)
    assert status == 200
    action, manifest = form(page)
    assert headers["Content-Security-Policy"].startswith(f"default-src 'none'; form-action {double.api_url};")
    target = urllib.parse.urlsplit(action)
    assert target.path == "/organizations/acme/settings/apps/new"
    state = urllib.parse.parse_qs(target.query)["state"][0]
    assert manifest["name"] == "fixer"
    assert manifest["hook_attributes"] == {"url": api.url + HOOK_PATH, "active": True}
    assert manifest["default_permissions"] == {needed.name: needed.level for needed in PERMISSIONS}
    assert manifest["default_events"] == [needed.name for needed in EVENTS]
    assert manifest["public"] is False
    back = str(manifest["redirect_url"])
    code = double.apps.register(manifest)
    for wrong in (
        f"{back}?code={code}",
        f"{back}?code={code}&state=x",
        f"{back}?state={state}",
        f"{back}?code=a/b&state={state}",
    ):
        assert get(wrong)[0] == 400
    assert get(f"{back}?code={code}&state={state}", Host="attacker.example")[0] == 421
    assert get(url.rpartition("/")[0] + "/")[0] == 404
    assert process.poll() is None  # none of that was taken for an answer
    status, said, _ = get(f"{back}?code={code}&state={state}")
    assert (status, code in said, state in said) == (200, False, False)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    settings = Settings(_env_file=".env")
    assert settings.github_app_id == double.app_id
    assert settings.github_url == double.api_url
    assert settings.public_url == api.url
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.get_secret_value() == double.webhook_secret
    key = Path("github-app.private-key.pem")
    assert key.read_text() == double.private_key_path.read_text()
    assert [stat.S_IMODE(file.stat().st_mode) for file in (Path(".env"), key)] == [0o600, 0o600]
    assert f"{double.api_url}/apps/{double.app_slug}/installations/new" in output
    assert "ok      own delivery: taken" in output
    for secret in (double.webhook_secret, code, state, "PRIVATE KEY"):
        assert secret not in output


def test_an_app_is_registered_from_a_browser_elsewhere(double: GitHubDouble, api: Api, monkeypatch) -> None:
    from worker.connecting import registration

    monkeypatch.setattr(registration.secrets, "token_urlsafe", lambda n: f"fixed-{n}")
    code = double.apps.register({"name": "x"})
    address = f"http://127.0.0.1:1/created?code={code}&state=fixed-32"
    options = ("setup", "--headless", "--url", api.url, "--api-url", double.api_url)
    assert "no code of this set-up" in run(*options, stdin=address.replace("fixed", "other") + "\n", status=1)
    assert not Path(".env").exists()
    output = run(*options, stdin=f"{address}\n")
    assert code not in output
    assert Settings(_env_file=".env").github_app_id == double.app_id
    assert not Path("github-app.html").exists()
    assert "404" in run(*options, "--force", stdin=f"{code}\n", status=3)  # a code can be used once


def test_what_is_set_already_stays(double: GitHubDouble, api: Api) -> None:
    path = configured(double, api)
    path.write_text(f"# mine\nOTHER='a b'\n{path.read_text()}export DEVSTRAL_FIX_LOG_LEVEL=DEBUG\n")
    before = path.read_text()
    options = ("setup", "--headless", "--url", api.url, "--api-url", double.api_url)
    assert "sets DEVSTRAL_FIX_GITHUB_APP_ID" in run(*options, status=2)
    assert path.read_text() == before
    code = double.apps.register({})
    run(*options, "--force", stdin=f"{code}\n")
    text = path.read_text()
    assert text.startswith("# mine\nOTHER='a b'\n")
    assert "export DEVSTRAL_FIX_LOG_LEVEL=DEBUG\n" in text
    assert text.count("DEVSTRAL_FIX_GITHUB_APP_KEY_FILE=") == 1
    assert env_file.read(path)["DEVSTRAL_FIX_GITHUB_APP_KEY_FILE"] == "github-app.private-key.pem"


def test_a_key_file_that_is_there_stays(double: GitHubDouble, api: Api) -> None:
    Path("github-app.private-key.pem").write_text("another App's")
    options = ("setup", "--headless", "--url", api.url, "--api-url", double.api_url)
    assert "is there already" in run(*options, status=2)
    assert Path("github-app.private-key.pem").read_text() == "another App's"


def test_what_can_not_be_written_is_told_before_anybody_goes_to_github(double: GitHubDouble, api: Api) -> None:
    options = ("setup", "--headless", "--url", api.url, "--api-url", double.api_url)
    assert "is no directory" in run(*options, "--key-file", "absent/key.pem", status=2)
    Path("page.html").write_text("mine")
    assert "is there already" in run(*options, "--page", "page.html", status=1)
    assert Path("page.html").read_text() == "mine"
    port = api.url.rpartition(":")[2]
    assert "can't be listened at" in run(*options, "--port", port, status=3)
    assert sorted(entry.name for entry in Path().iterdir()) == ["page.html"]


def test_the_environment_would_win_over_the_file(double: GitHubDouble, api: Api, monkeypatch) -> None:
    monkeypatch.setenv("DEVSTRAL_FIX_WEBHOOK_SECRET", "from elsewhere")
    options = ("setup", "--headless", "--url", api.url, "--api-url", double.api_url)
    assert "wins over .env" in run(*options, status=2)
    assert "wins over .env" in run("rotate-secret", status=2)


@pytest.mark.parametrize(
    "url", ["fix.example.com", "ftp://a", "https://", "https://u:p@a.example", "https://a.example/?q"]
)
def test_an_address_that_is_none(url: str) -> None:
    assert "is no address" in run("setup", "--url", url, status=2)
    assert "needs --url" in run("setup", status=2)


# -- a token


def test_a_token(double: GitHubDouble, api: Api) -> None:
    options = ("setup", "--token", "--api-url", double.api_url, "--url", api.url)
    assert "the token is empty" in run(*options, stdin="\n", status=2)
    assert "401" in run(*options, stdin="ghp_unknown\n", status=3)
    assert not Path(".env").exists()
    output = run(*options, stdin=f"{double.admin_token}\n")
    there = env_file.read(Path(".env"))
    assert there["DEVSTRAL_FIX_GITHUB_TOKEN"] == double.admin_token
    assert len(there["DEVSTRAL_FIX_WEBHOOK_SECRET"]) == 64
    for secret in (double.admin_token, there["DEVSTRAL_FIX_WEBHOOK_SECRET"]):
        assert secret not in output
    assert "holds the token of octo-admin" in output
    api.restart(Path(".env"))
    found = findings("acme/widgets", "acme/absent", status=1)
    assert found["github account"][0]["status"] == "ok"
    assert found["acme/widgets"][0]["status"] == "ok"
    assert found["acme/absent"][0]["status"] == "missing"


@pytest.mark.parametrize(
    ("scopes", "status", "words"),
    [
        ({"X-OAuth-Scopes": "repo, user"}, "ok", "classic token of octo-admin: repo, user"),
        ({"X-OAuth-Scopes": "read:org"}, "missing", "without the scope repo"),
        ({"X-OAuth-Scopes": ""}, "missing", "without the scope repo"),
        ({}, "ok", "does not tell what it may"),
    ],
)
def test_a_token_s_scopes(double: GitHubDouble, api: Api, scopes: dict[str, str], status: str, words: str) -> None:
    configured(double, api, GITHUB_APP_ID=None, GITHUB_TOKEN=double.admin_token)
    double.fault("GET /user", status=200, body={"login": "octo-admin"}, headers=scopes)
    (found,) = findings(status=0 if status == "ok" else 1)["github account"]
    assert found["status"] == status
    assert words in found["detail"]


# -- checks


def test_an_app_that_fits(double: GitHubDouble, api: Api) -> None:
    configured(double, api)
    found = findings()
    assert {name: entries[0]["status"] for name, entries in found.items()} == {
        "github account": "ok",
        "permissions": "ok",
        "events": "warn",  # the double's App has no `repository`
        "installations": "ok",
        "webhook": "ok",
        **({"deliveries": "ok"} if "deliveries" in found else {}),
        "own delivery": "ok",
    }
    assert api.asked[-1] == HOOK_PATH


def app(double: GitHubDouble, **changes: object) -> dict[str, object]:
    about = {
        "slug": "fixer",
        "html_url": "https://github.example/apps/fixer",
        "permissions": {needed.name: needed.level for needed in PERMISSIONS},
        "events": [needed.name for needed in EVENTS],
    }
    return {**about, **changes}


@pytest.mark.parametrize(
    ("changes", "name", "status", "words"),
    [
        ({"permissions": {"metadata": "read", "contents": "read"}}, "permissions", "missing", "contents: write"),
        ({"permissions": {"metadata": "read", "contents": "odd"}}, "permissions", "missing", "contents: write"),
        ({"permissions": None}, "permissions", "missing", "metadata: read"),
        ({"events": ["push"]}, "events", "missing", "issues is not subscribed"),
        ({"events": ["issues"]}, "events", "warn", "issue_comment is not subscribed"),
    ],
)
def test_what_an_app_lacks_is_named_with_its_reason(
    double: GitHubDouble, api: Api, changes: dict[str, object], name: str, status: str, words: str
) -> None:
    configured(double, api)
    double.fault("GET /app", status=200, body=app(double, **changes))
    found = findings(status=1 if status == "missing" else 0)[name]
    assert any(words in one["detail"] and one["status"] == status and "it is for" in one["detail"] for one in found)


def test_checks_are_no_must(double: GitHubDouble, api: Api) -> None:
    configured(double, api)
    granted = {needed.name: needed.level for needed in PERMISSIONS if needed.name != "checks"}
    double.fault("GET /app", status=200, body=app(double, permissions=granted))
    (found,) = findings()["permissions"]
    assert (found["status"], "pull request alone" in found["detail"]) == ("warn", True)


def test_installations_that_are_behind(double: GitHubDouble, api: Api) -> None:
    configured(double, api)
    old = {"id": 1, "account": {"login": "old"}, "permissions": {"metadata": "read"}, "suspended_at": None}
    off = {"id": 2, "account": {"login": "off"}, "permissions": {}, "suspended_at": "2026-01-01T00:00:00Z"}
    double.fault("GET /app/installations", status=200, body=[old, off])
    said = [one["detail"] for one in findings()["installations"]]
    assert said == ["off, old", "old has not accepted: contents, issues, pull_requests, checks", "off: suspended"]
    double.fault("GET /app/installations", status=200, body=[])
    assert findings()["installations"][0]["detail"] == "installed nowhere"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "https://elsewhere.example/webhooks/github"}, "sends events to https://elsewhere.example"),
        ({"content_type": "form"}, "its content type is form"),
        ({"secret": None}, "it has no secret"),
    ],
)
def test_a_webhook_that_is_set_otherwise(
    double: GitHubDouble, api: Api, changes: dict[str, object], words: str
) -> None:
    configured(double, api)
    right = {"url": api.url + HOOK_PATH, "content_type": "json", "insecure_ssl": "0", "secret": "********"}
    double.fault("GET /app/hook/config", status=200, body={**right, **changes})
    (found,) = findings(status=1)["webhook"]
    assert words in found["detail"]


def test_deliveries_that_failed_are_sent_again(double: GitHubDouble, api: Api) -> None:
    configured(double, api)
    api.status = 503
    double.deliver("ping", {"zen": "."})
    api.status = None
    (found,) = findings()["deliveries"]
    assert (found["status"], "the newest: ping, 503" in found["detail"]) == ("warn", True)
    before = len(double.deliveries())
    assert "GitHub sends ping" in run("check", "--redeliver")
    assert [record.status for record in double.deliveries()[before:]] == [202]


@pytest.mark.parametrize(
    ("status", "location", "words"),
    [
        (302, "http://127.0.0.1:9/elsewhere", "redirect (302)"),
        (404, "", "answers 404"),
        (500, "", "answers 500"),
    ],
)
def test_the_service_does_not_answer_as_it_should(
    double: GitHubDouble, api: Api, status: int, location: str, words: str
) -> None:
    configured(double, api)
    api.status, api.location = status, location
    (found,) = findings(status=1)["own delivery"]
    assert words in found["detail"]
    assert api.asked == [HOOK_PATH]  # a redirect is not followed


def test_the_service_runs_with_another_secret_or_not_at_all(double: GitHubDouble, api: Api) -> None:
    configured(double, api)
    api.secrets = ["another"]
    (found,) = findings(status=1)["own delivery"]
    assert "start it anew" in found["mend"]
    api.server.stop()
    (found,) = findings(status=1)["own delivery"]
    assert "can't be reached" in found["detail"]


def test_a_key_that_is_not_the_app_s(double: GitHubDouble, api: Api) -> None:
    Path("other.pem").write_text(new_key())
    configured(double, api, GITHUB_APP_KEY_FILE="other.pem")
    (found,) = findings(status=1)["github account"]
    assert "401" in found["detail"]
    assert "none of this App's" in found["mend"]
    configured(double, api, GITHUB_APP_KEY_FILE="absent.pem")
    assert "can't be used" in findings(status=1)["github account"][0]["detail"]


def test_github_is_away(double: GitHubDouble, api: Api) -> None:
    configured(double, api, GITHUB_URL="http://127.0.0.1:9")
    (found,) = findings()["github account"]
    assert (found["status"], "can't be reached" in found["detail"]) == ("warn", True)


def test_a_check_changes_nothing(double: GitHubDouble, api: Api) -> None:
    path = configured(double, api)
    before, asked = path.read_bytes(), len(double.requests())
    run("check")
    assert path.read_bytes() == before
    assert {entry.method for entry in double.requests()[asked:]} == {"GET"}


def test_nothing_is_configured() -> None:
    output = run("check")
    assert "warn    github account: not configured" in output
    assert "devstral-fix github setup" in output


# -- rotations


def new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form, none = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none).decode()


def test_a_secret_is_rotated_without_losing_an_event(double: GitHubDouble, api: Api) -> None:
    path = configured(double, api)
    first = run("rotate-secret")
    assert "answers 401" in first
    assert "start the API anew" in first
    assert double.deliver("ping", {}).status == 202  # GitHub still signs with the old one
    assert double.apps.secret is None
    api.restart(path)
    assert double.deliver("ping", {}).status == 202
    second = run("rotate-secret")
    assert "GitHub signs with the new secret" in second
    new = env_file.read(path)["DEVSTRAL_FIX_WEBHOOK_SECRET"]
    assert double.apps.secret == new != double.webhook_secret
    assert double.deliver("ping", {}).status == 202
    assert "gone" in run("rotate-secret", "--finish")
    api.restart(path)
    assert api.secrets == [new]
    assert double.deliver("ping", {}).status == 202
    assert "one secret only" in run("rotate-secret", "--finish")
    for secret in (new, double.webhook_secret):
        assert secret not in first + second


def test_a_rotation_where_the_service_can_not_be_tried(double: GitHubDouble, api: Api) -> None:
    path = configured(double, api, PUBLIC_URL=None)
    assert "--restarted" in run("rotate-secret", "--restarted")  # it can't have been, for a secret made just now
    assert "--restarted" in run("rotate-secret")
    assert double.apps.secret is None
    assert "GitHub signs with the new secret" in run("rotate-secret", "--restarted")
    assert double.apps.secret == env_file.read(path)["DEVSTRAL_FIX_WEBHOOK_SECRET"]


def test_a_rotation_without_a_secret_to_rotate(double: GitHubDouble, api: Api) -> None:
    configured(double, api, WEBHOOK_SECRET=None)
    assert "sets no DEVSTRAL_FIX_WEBHOOK_SECRET" in run("rotate-secret", status=2)


def test_a_key_is_replaced_only_by_one_that_works(double: GitHubDouble, api: Api) -> None:
    used, new, wrong = Path("used.pem"), Path("new.pem"), Path("wrong.pem")
    used.write_text("the key before")
    new.write_text(double.private_key_path.read_text())
    wrong.write_text(new_key())
    configured(double, api, GITHUB_APP_KEY_FILE=str(used))
    assert "Generate a private key" in run("rotate-key")
    assert "401" in run("rotate-key", str(wrong), status=3)
    assert used.read_text() == "the key before"
    assert "is the key in use" in run("rotate-key", str(used), status=2)
    output = run("rotate-key", str(new))
    assert "delete the old key" in output
    assert used.read_text() == new.read_text()
    assert stat.S_IMODE(used.stat().st_mode) == 0o600


def test_doctor_repeats_the_check(double: GitHubDouble, api: Api) -> None:
    """Leaving the check out of `worker.examine` turns this red."""
    configured(double, api)
    done = CliRunner().invoke(cli, ["doctor", "--isolation", "basic", "--json"])
    names = {finding["name"]: finding["status"] for finding in json.loads(done.output)["service"]}
    for name in ("github", "github account", "permissions", "installations", "webhook", "own delivery"):
        assert names[name] == "ok", done.output
