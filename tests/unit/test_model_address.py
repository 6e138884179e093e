"""Where code may be sent: loopback and private addresses, or what the owner named; and how a model is specified."""

from __future__ import annotations

import socket

import pytest
from pydantic import SecretStr

from agent.tokens import TokenCounter
from worker.adapters.models import open_model
from worker.adapters.models.address import VARIABLE, check_address
from worker.errors import ModelUnavailable, SettingsError


@pytest.fixture
def names(monkeypatch):
    """A resolver that knows only these names; literals resolve to themselves."""
    table: dict[str, list[str]] = {}

    def getaddrinfo(host, port, **kwargs):
        if host in table:
            found = table[host]
        elif host.replace(".", "").isdigit() or ":" in host:
            found = [host]
        else:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1:1234/v1", "127.0.0.1:1234"),
        ("http://127.9.9.9", "127.9.9.9:80"),
        ("https://10.0.0.1/v1/", "10.0.0.1:443"),
        ("http://172.31.255.255:1", "172.31.255.255:1"),
        ("http://192.168.1.2:8000/v1", "192.168.1.2:8000"),
        ("http://169.254.10.10:1", "169.254.10.10:1"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
        ("http://[fd00::1]:8000/v1", "[fd00::1]:8000"),
        ("http://[fe80::1]:8000/v1", "[fe80::1]:8000"),
        ("http://[::ffff:10.0.0.1]:8000/v1", "[::ffff:10.0.0.1]:8000"),
    ],
)
def test_own_addresses_need_no_permission(names, url, place):
    address = check_address(url, ())
    assert address.place == place
    assert not address.remote
    assert not address.url.endswith("/")


@pytest.mark.parametrize(
    "url",
    [
        "https://8.8.8.8/v1",
        "http://172.32.0.1/v1",
        "http://100.64.0.1/v1",  # a carrier's or an overlay's network: not certainly ours
        "http://0.0.0.0:8000/v1",
        "http://203.0.113.5/v1",
        "http://[2001:4860:4860::8888]/v1",
        "http://[::ffff:8.8.8.8]/v1",
    ],
)
def test_anything_else_is_refused_with_the_variable_and_an_example(names, url):
    with pytest.raises(SettingsError, match=rf"outside this network.*{VARIABLE}=\S+"):
        check_address(url, ())


def test_every_address_of_a_name_must_be_ours(names):
    names["gpu.lan"] = ["192.168.0.7", "fd00::7"]
    assert not check_address("http://gpu.lan:8000/v1", ()).remote
    names["gpu.lan"].append("8.8.8.8")
    with pytest.raises(SettingsError, match=r"gpu\.lan is at 8\.8\.8\.8"):
        check_address("http://gpu.lan:8000/v1", ())


def test_a_named_host_is_allowed_and_known_as_remote(names):
    names["api.example.com"] = ["93.184.216.34"]
    for listed in ("api.example.com", " API.example.com. "):
        address = check_address("https://API.example.com/v1", [listed])
        assert address.remote
        assert address.place == "api.example.com:443"
    for other in ("example.com", "api.example.com.evil.org", "*", ""):
        with pytest.raises(SettingsError, match=f"{VARIABLE}=api.example.com"):
            check_address("https://api.example.com/v1", [other])


def test_a_name_that_does_not_resolve_may_come_back(names):
    with pytest.raises(ModelUnavailable, match=r"gpu\.lan can't be resolved"):
        check_address("http://gpu.lan:8000/v1", ())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://127.0.0.1/v1", "must start with http"),
        ("127.0.0.1:8000/v1", "must start with http"),
        ("file:///etc/passwd", "must start with http"),
        ("http:///v1", "no usable host"),
        ("http://127.0.0.1:99999/v1", "can't be read"),
        ("http://127.0.0.1:x/v1", "can't be read"),
        ("http://[::1/v1", "can't be read"),
        ("http://127.0.0.1/v1?key=1", "query"),
        ("http://127.0.0.1\\@8.8.8.8/v1", "characters"),
        ("http://127.0.0.1\t.evil.org/v1", "characters"),
        ("http://127.0.0.1 /v1", "characters"),
        ("http://ex\u0430mple.org/v1", "characters"),
        ("http://127.0.0.1%2eevil.org/v1", "no usable host"),
    ],
)
def test_urls_that_can_be_misread_are_refused(names, url, says):
    with pytest.raises(SettingsError, match=says):
        check_address(url, ())


@pytest.mark.parametrize("userinfo", ["user:hunter2", "hunter2", ":hunter2", "x@hunter2"])
def test_a_password_in_the_url_is_refused_and_not_repeated(names, userinfo):
    with pytest.raises(SettingsError, match="user or password") as caught:
        check_address(f"http://{userinfo}@127.0.0.1/v1", ())
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "use one of: scripted:"),
        ("scripted:", "use one of: scripted:"),
        ("openai:", "use one of: scripted:"),
        ("gpt", "no model is called 'gpt'"),
        ("http://127.0.0.1/v1#m", "no model is called 'http:'"),
        ("openai:http://127.0.0.1/v1", "name after a #"),
        ("openai:http://127.0.0.1/v1#", "name after a #"),
        ("vllm:mistralai/Devstral-Small-2-24B-Instruct-2512", "inside a GPU worker.*vllm serve"),
        ("vllm:", "use one of: scripted:"),
        ("openai:http://8.8.8.8/v1#m", VARIABLE),
        ("scripted:/nonexistent/script.json", "No such file"),
    ],
)
def test_bad_specifications_come_with_an_example(names, spec, says):
    with pytest.raises(SettingsError, match=says):
        open_model(spec, counter=TokenCounter())


def test_a_good_specification_opens_without_a_call(names):
    model = open_model(
        "openai:http://127.0.0.1:9/v1#org/devstral", counter=TokenCounter(), api_key=SecretStr("secret-key")
    )
    assert model.label == "openai:org/devstral@127.0.0.1:9"
    assert "secret-key" not in repr(vars(model))
    model.close()
