"""All stages of a run on a GitHub that is a fake, but passes the forge's contract."""

from __future__ import annotations

from tests.fake_forge import FakeForge, FakeForges, FakeRepository
from tests.stages import PROFILE, Stages
from worker.demo.github_double.bare import BareRepositories

NAME = "acme/textkit"
__all__ = ["NAME", "PROFILE", "Whole"]


class Whole(Stages):
    def __init__(self, store, tmp_path, files):
        self.bare = BareRepositories(tmp_path / "origin")
        self.commit = self.bare.create(NAME, files, "main")
        self.github = FakeRepository(NAME, clone_url=f"file://{self.bare.path(NAME)}")
        self.github.permissions |= {"octo-admin": "admin", "ann": "write", "bob": "read"}
        self.github.has_branch = lambda name: self.bare.branch(NAME, name) is not None
        self.github.head_of = lambda name: self.bare.branch(NAME, name) or "0" * 40
        self.forge = FakeForge(self.github)
        super().__init__(store, tmp_path, FakeForges(self.forge), allow_file=True)

    def comments(self, number: int) -> list[str]:
        return [comment.body for comment in self.github.comments.get(number, [])]

    def file(self, branch: str, path: str) -> str:
        found = self.bare.read_file(NAME, branch, path)
        assert found is not None
        return found.decode()
