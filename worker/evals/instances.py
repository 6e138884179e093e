"""Instances as SWE-bench writes them, one JSON object a line; fields that are not read here are let pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from worker.errors import SettingsError


def _listed(value: Any) -> Any:
    """Its lists are JSON text in the published files."""
    return json.loads(value) if isinstance(value, str) else value


Tests = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Instance(BaseModel):
    """`repo` is a directory here (a git repository); `test_command` and `packages` are additions of ours: the command
    that the tests' ids are given to, and a directory of packages that is shown to the sandbox."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    instance_id: str = Field(min_length=1)
    repo: Path
    base_commit: str = Field(pattern=r"^[0-9a-f]{40}$|^[0-9a-f]{64}$")
    problem_statement: str = Field(min_length=1)
    fail_to_pass: Tests = Field(alias="FAIL_TO_PASS", min_length=1)
    pass_to_pass: Tests = Field(default=(), alias="PASS_TO_PASS")
    test_patch: str = Field(min_length=1)
    patch: str = ""
    test_command: str = "python3 -m pytest"
    packages: Path | None = None

    @property
    def title(self) -> str:
        return self.problem_statement.strip().split("\n", 1)[0].lstrip("# ")

    @property
    def body(self) -> str:
        return self.problem_statement.strip().partition("\n")[2].strip()


def read(path: Path) -> tuple[Instance, ...]:
    """Raises SettingsError, which names the line that is none."""
    found: dict[str, Instance] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            instance = Instance.model_validate(json.loads(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{where}: {name}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{where}: not JSON: {error}") from error
        if instance.instance_id in found:
            raise SettingsError(f"{where}: {instance.instance_id} is there twice")
        repo = (path.parent / instance.repo).resolve()
        if not repo.is_dir():
            raise SettingsError(f"{where}: repo: {instance.repo} is no directory here (fetch it, and name its path)")
        packages = None if instance.packages is None else (path.parent / instance.packages).resolve()
        found[instance.instance_id] = instance.model_copy(update={"repo": repo, "packages": packages})
    if not found:
        raise SettingsError(f"{path}: there is no instance in it")
    return tuple(found.values())
