"""Check runs, which an App alone may write; commit statuses for others."""

from __future__ import annotations

from collections.abc import Sequence

from github import Github
from github.CheckRun import CheckRun as GitHubCheckRun

from worker.adapters.forge import text
from worker.adapters.forge.border import translated
from worker.adapters.forge.client import connect
from worker.adapters.forge.connection import Connection
from worker.errors import ForgeRefused
from worker.stages.forge import CheckRun, Conclusion, FailedCheck

STATUS_CHARS = 140
CHECK_CHARS = 8_000  # of what one check says


class Checks(Connection):
    def find_check_run(self, head: str, name: str, external_id: str) -> CheckRun | None:
        with translated(f"list the check runs of {self._name}@{head[:12]}"):
            commit = self._for_checks().get_repo(self._name).get_commit(head)
            for found in commit.get_check_runs(check_name=name, filter="all"):
                if found.external_id == external_id:
                    return _check(found)
        return None

    def create_check_run(
        self, *, head: str, name: str, external_id: str, conclusion: Conclusion, title: str, summary: str
    ) -> CheckRun:
        with translated(f"make a check run on {self._name}@{head[:12]}"):
            made = (
                self._for_checks()
                .get_repo(self._name)
                .create_check_run(
                    name,
                    head,
                    external_id=external_id,
                    status="completed",
                    conclusion=conclusion,
                    output={"title": text.title(title), "summary": text.body(summary)},
                )
            )
            return _check(made)

    def failed_checks(self, head: str) -> Sequence[FailedCheck]:
        auth = self._identity.checks_auth(self._name, self._installation_id)
        client = self._client if auth is None else self._for_checks()
        ours = self._identity.login().removesuffix("[bot]")
        with translated(f"list the check runs of {self._name}@{head[:12]}"):
            runs = client.get_repo(self._name).get_commit(head).get_check_runs(filter="latest")
            failed = [run for run in runs if run.conclusion in ("failure", "timed_out")]
            return tuple(_failed(run) for run in failed if (run.raw_data.get("app") or {}).get("slug") != ours)

    def set_status(self, head: str, *, context: str, description: str) -> None:
        with translated(f"set a commit status on {self._name}@{head[:12]}"):
            short = " ".join(description.split())[:STATUS_CHARS]
            self._repo.get_commit(head).create_status("success", description=short, context=context)

    def _for_checks(self) -> Github:
        if self._checks is None:
            auth = self._identity.checks_auth(self._name, self._installation_id)
            if auth is None:
                raise ForgeRefused("check runs are for Apps alone")
            self._checks = connect(auth, self._options, self._passage)
        return self._checks


def _failed(run: GitHubCheckRun) -> FailedCheck:
    output = run.raw_data.get("output") or {}
    said = [output.get(part) for part in ("title", "summary", "text")]
    text = "\n\n".join(part for part in said if isinstance(part, str) and part.strip())
    return FailedCheck(name=run.name, text=text[:CHECK_CHARS], url=run.html_url or "")


def _check(check: GitHubCheckRun) -> CheckRun:
    return CheckRun(
        id=check.id,
        name=check.name,
        head=check.head_sha,
        external_id=check.external_id or "",
        conclusion=check.conclusion or "",
    )
