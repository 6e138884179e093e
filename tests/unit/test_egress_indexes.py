"""Package clients are asked which indexes they use. Here they are scripts that answer as the real ones do."""

from __future__ import annotations

import sys

import pytest

from worker.adapters.egress.indexes import ask, without_credentials
from worker.adapters.egress.policy import HostPattern


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose only programs are those a test makes."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "service-python"))
    env = {"PATH": f"{tmp_path / 'bin'}", "HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "none")}

    def program(name: str, body: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return env, program, tmp_path


def hosts(env) -> list[str]:
    return [str(host) for host in ask(env).hosts]


def test_a_machine_without_clients_says_nothing(machine):
    env, _, _ = machine
    found = ask(env)
    assert found.hosts == ()
    assert found.env == {}


PIP = """case "$*" in
*--version*) echo pip ;;
*file_storage_domain*) echo https://index.test/simple files.test ;;
*"config list"*) {config} ;;
esac"""


def test_pip_without_configuration_is_asked_for_what_is_built_in(machine):
    env, program, _ = machine
    program("python3", PIP.format(config="true"))
    assert hosts(env) == ["index.test:443", "files.test:443"]
    assert ask(env).env == {"PIP_INDEX_URL": "https://index.test/simple"}


def test_pip_with_configuration(machine):
    env, program, _ = machine
    lines = [
        "global.index-url='https://user:secret@mirror.test:8443/simple'",
        "global.extra-index-url='file:///srv/simple https://more.test/simple'",
        "global.cert='/etc/ssl/certs/company.pem'",
        ":env:.trusted-host='more.test'",
    ]
    program("python3", PIP.format(config="/bin/cat <<'END'\n" + "\n".join(lines) + "\nEND\n"))
    found = ask(env)
    assert [str(host) for host in found.hosts] == ["mirror.test:8443", "more.test:443"]  # and no files.test
    assert found.env == {
        "PIP_INDEX_URL": "https://mirror.test:8443/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.test/simple",
        "PIP_TRUSTED_HOST": "more.test",
        "PIP_CERT": "/etc/ssl/certs/company.pem",
    }
    assert "secret" not in repr(found)


def test_uv_npm_and_go(machine):
    env, program, _ = machine
    program("uv", "echo '  The default package index (by default: <https://uv.test/simple>).'")
    program("npm", "echo warning >&2; echo https://npm.test/")
    program("go", "echo 'https://u:p@go.test,direct'; echo sum.test")
    assert hosts(env) == ["uv.test:443", "npm.test:443", "go.test:443", "sum.test:443"]
    assert ask(env).env == {
        "UV_DEFAULT_INDEX": "https://uv.test/simple",
        "NPM_CONFIG_REGISTRY": "https://npm.test/",
        "GOPROXY": "https://go.test",
        "GOSUMDB": "sum.test",
    }


def test_go_is_told_which_modules_are_private(machine):
    env, program, _ = machine
    program("go", r"printf '%s\n' https://go.test off 'example.test/*' '' ''")
    assert ask(env).env == {"GOPROXY": "https://go.test", "GOSUMDB": "off", "GONOSUMDB": "example.test/*"}


def test_uv_is_configured_by_a_file_or_by_the_environment(machine):
    env, program, home = machine
    program("uv", "echo help")
    (home / ".config" / "uv").mkdir(parents=True)
    (home / ".config" / "uv" / "uv.toml").write_text(
        '[[index]]\nurl = "https://a.test/simple"\ndefault = true\n[[index]]\nurl = "https://b.test/simple"\n'
    )
    assert hosts(env) == ["a.test:443", "b.test:443"]
    assert hosts({**env, "UV_DEFAULT_INDEX": "https://c.test/simple"}) == ["c.test:443", "b.test:443"]


def test_cargo_is_what_its_configuration_says(machine):
    env, _, home = machine
    (home / ".cargo").mkdir()
    (home / ".cargo" / "config.toml").write_text(
        '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\nregistry = "sparse+https://t:k@cargo.test/x/"\n'
    )
    found = ask(env)
    assert [str(host) for host in found.hosts] == ["cargo.test:443"]
    assert found.env["DEVSTRAL_FIX_CARGO_CONFIG"].splitlines() == [
        "[source.crates-io]",
        'replace-with = "mirror"',
        "[source.mirror]",
        'registry = "sparse+https://cargo.test/x/"',
    ]


@pytest.mark.parametrize(
    "url", ["direct", "off", "file:///srv", "/srv/simple", "ssh://git@host/x", "https://", "http://h:x/"]
)
def test_what_is_no_web_address(url):
    assert without_credentials(url) is None


def test_an_address_loses_its_credentials_and_keeps_its_port():
    assert without_credentials("http://u:p@[::1]:8080/a?b") == ("http://[::1]:8080/a?b", HostPattern("::1", 8080))


def test_the_real_clients_of_this_machine_answer():
    """Whatever they say; that they are asked in a way they understand."""
    found = ask()
    assert all("@" not in value for name, value in found.env.items() if name.endswith(("URL", "INDEX", "REGISTRY")))
