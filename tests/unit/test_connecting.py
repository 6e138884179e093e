"""Set-up without GitHub: addresses, pasted codes, and the file of settings."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from worker.connecting import env_file
from worker.connecting.registration import Landing, code_of, hook_url, page, register_url, web_url
from worker.errors import SettingsError


@pytest.mark.parametrize(
    ("api", "web"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://github.example/api/v3", "https://github.example"),
        ("https://api.example/api/v3", "https://api.example"),
        ("https://api.acme.ghe.com", "https://acme.ghe.com"),
        ("http://127.0.0.1:4001", "http://127.0.0.1:4001"),
    ],
)
def test_where_people_see_it(api: str, web: str) -> None:
    assert web_url(api) == web
    assert register_url(api, None, "s") == f"{web}/settings/apps/new?state=s"
    assert register_url(api, "a/b?c", "s") == f"{web}/organizations/a%2Fb%3Fc/settings/apps/new?state=s"


def test_the_webhook_s_address() -> None:
    assert hook_url("https://a.example/") == hook_url("https://a.example") == "https://a.example/webhooks/github"
    assert hook_url("https://a.example/fix") == "https://a.example/fix/webhooks/github"


@pytest.mark.parametrize(
    ("pasted", "code"),
    [
        ("http://127.0.0.1:1/created?code=abc123&state=ours", "abc123"),
        (" abc123\n", "abc123"),
        ("http://127.0.0.1:1/created?code=abc123&state=theirs", None),
        ("http://127.0.0.1:1/created?code=abc123", None),
        ("http://127.0.0.1:1/created?state=ours", None),
        ("http://127.0.0.1:1/created?code=a%2Fb&state=ours", None),
        ("http://[", None),
        ("http://127.0.0.1:1/created?code=abc123&state=\u00f6", None),
        ("", None),
        ("a" * 201, None),
        ("two words", None),
    ],
)
def test_a_code_is_taken_with_its_state(pasted: str, code: str | None) -> None:
    assert code_of(pasted, "ours") == code


def test_what_a_name_holds_stays_text_on_the_page() -> None:
    shown = page('https://github.example/x?a=1&b="', {"name": '"><script>alert(1)</script>'})
    assert "<script>" not in shown
    assert 'x?a=1&amp;b=&quot;"' in shown


def test_the_page_is_gone_with_its_block() -> None:
    about = {"api_url": "https://api.github.com", "organization": None, "name": "n", "public_url": "https://a.example"}
    with Landing(**about) as landing:
        assert landing.wait(0) is None
        port = int(landing.url.split(":")[2].split("/")[0])
    with Landing(**about, port=port):  # it is free again
        pass


def test_a_file_of_settings_is_changed_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# words\nA=1\n\nexport B='two words'\nC=3 # three\nAB=4\n")
    path.chmod(0o644)
    env_file.change(path, {"A": "x/y", "B": None, "D": "it is $HOME", "E": None})
    assert path.read_text() == "# words\nA=x/y\n\nC=3 # three\nAB=4\nD='it is $HOME'\n"
    assert env_file.read(path) == {"A": "x/y", "C": "3", "AB": "4", "D": "it is $HOME"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [".env"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real", tmp_path / ".env"
    target.write_text("A=1\n")
    link.symlink_to(target)
    env_file.change(link, {"A": "2"})
    assert link.is_symlink()
    assert target.read_text() == "A=2\n"


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    assert env_file.read(tmp_path / "none") == {}
    env_file.change(tmp_path / "none", {"A": "1"})
    assert env_file.read(tmp_path / "none") == {"A": "1"}


@pytest.mark.parametrize("value", ["it's", "a\nb", "a\\b", "${HOME}"])
def test_what_can_not_be_written_changes_nothing(tmp_path: Path, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    with pytest.raises(SettingsError, match="can't be written") as caught:
        env_file.change(path, {"A": value})
    assert value not in str(caught.value)
    assert path.read_text() == "A=1\n"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\xfe")
    for call in (lambda: env_file.read(path), lambda: env_file.change(path, {"A": "1"})):
        with pytest.raises(SettingsError, match="can't be read"):
            call()
    with pytest.raises(SettingsError, match="can't be written"):
        env_file.put(tmp_path / "absent" / ".env", "A=1\n")
