"""Which report a test command can give, and how it is run so that the report lands outside the workspace.

The report's file lies in a new folder below /tmp of the sandbox. The wrapper sends it to its own standard output, alone
and compressed; all that the tests print goes to standard error. So nothing of it has to be read from a place that
lasts, or from the host.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agent.reports.cases import MAX_BYTES, ReportError, Unusable

VARIABLE = "TEST_REPORT"  # where a command that writes its report itself is told to
_MAX_PACKED = 3 << 20  # a larger one arrives cut off, so damaged, but ends no execution for its output
# A module that can't be imported must not keep the others' tests from being executed.
_PYTEST_OPTIONS = f"--junitxml=${VARIABLE} -o junit_family=xunit1 --continue-on-collection-errors"
MAX_OUTPUT = 4 << 20  # bytes of each stream that are kept: the compressed report, and what was printed


class Format(StrEnum):
    JUNIT = "junit"
    PYTEST = "pytest"  # -rA
    UNITTEST = "unittest"  # -v
    JEST = "jest"  # --json; vitest's reporter `json` is the same
    GO = "go"  # test -json
    CARGO = "cargo"


PRINTED = frozenset({Format.PYTEST, Format.UNITTEST, Format.GO, Format.CARGO})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`command` is what is executed. `form`: None where no report can be had. `path`: a file of the workspace that
    holds the report afterwards, where the command can write it nowhere else."""

    command: str
    form: Format | None = None
    pytest: bool = False
    path: str | None = None

    @property
    def shown(self) -> str:
        """What people are told was executed."""
        return f'PYTEST_ADDOPTS="{_PYTEST_OPTIONS}" {self.command}' if self.pytest else self.command

    @property
    def script(self) -> str:
        """For `bash -c`."""
        if self.form is None:
            return self.command
        run = f"bash -c {shlex.quote(self.command)} 3>&-"
        if self.form in PRINTED and self.path is None:
            # Not for ever: what the tests left running may hold the pipe open.
            wait = "for _ in {1..20}; do kill -0 $tee 2>/dev/null || break; sleep 0.1; done"
            pipe = f'exec 4> >(exec tee "${VARIABLE}" 3>&-)\ntee=$!'
            run = f"{pipe}\n{run} >&4 2>&1 4>&-\ncode=$?\nexec 4>&-\n{wait}"
        else:
            run += "\ncode=$?"
        # Of one before, be it a patch's, nothing is taken for the report.
        path = shlex.quote(self.path or "")
        before = f"rm -f -- {path}\n" if self.path else ""
        after = f'test -f {path} -a ! -L {path} && cat -- {path} >"${VARIABLE}"\n' if self.path else ""
        addopts = f'export PYTEST_ADDOPTS="${{PYTEST_ADDOPTS:-}} {_PYTEST_OPTIONS}"\n' if self.pytest else ""
        return (
            f"exec 3>&1 1>&2\nexport {VARIABLE}=$(mktemp -d)/report\n{addopts}{before}{run}\n"
            f'{after}test -s "${VARIABLE}" && gzip -c -- "${VARIABLE}" | head -c {_MAX_PACKED} | base64 -w0 >&3\n'
            "exit $code\n"
        )


_CARGO = re.compile(r"\bcargo( \+\S+)? test\b")
_NODE = re.compile(r"\bnode( .*)? --test\b")
# What is appended to the whole command is the last one's.
_LAST = re.compile(r"((?:.*&&)?)([^;&|<>()`$\n]*)")
_JEST, _VITEST = (
    re.compile(
        rf"(?:(?<![\w./-]){name}(?:@[\w.^~-]+)?|node_modules/(?:\.bin|{name}|{name}/bin)/{name}(?:\.m?js)?)"
        r"(?![\w./-])(?!.* -- )"
    )
    for name in ("jest", "vitest")
)
_PACKAGE_TEST = re.compile(r"\s*(npm|pnpm|yarn)(?: run(?:-script)?)? ([\w:.-]+)((?: .*)?)")
_NODE_REPORTERS = (
    f"--test-reporter=junit --test-reporter-destination=${VARIABLE}"
    " --test-reporter=spec --test-reporter-destination=stdout"
)


def command_for(
    command: str,
    form: Format | None = None,
    path: str | None = None,
    scripts: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """The plan for a test command; `form` and `path` are its owners' words, where they said any; `scripts` are those of
    the package.json, which `npm test` may mean."""
    if form is not None:
        return Plan(command=command, form=form, path=path)
    first, last = found.groups() if (found := _LAST.fullmatch(command)) else (command, "")
    if package := _PACKAGE_TEST.fullmatch(last):
        manager, name, arguments = package.groups()
        if (script := scripts.get("test" if name == "t" else name)) is not None:
            return _through_package(first, last.rstrip(), manager, script, arguments)
    if len(re.findall(r"(?<![\w./-])(?:py\.test|pytest)(?![\w./-])", command)) == 1 and "--junit" not in command:
        return Plan(command=command, form=Format.JUNIT, pytest=True)
    if re.search(r"-m unittest\b", command):
        quiet = re.search(r"(?<!\S)(-\w*[qv]\w*|--quiet|--verbose)(?!\S)", command)
        verbose = command if quiet else re.sub(r"-m unittest( discover)?\b", r"\g<0> -v", command, count=1)
        return Plan(command=verbose, form=Format.UNITTEST)
    if re.search(r"\bgo test\b", command):
        return Plan(command=re.sub(r"\bgo test\b(?! -json)", "go test -json", command), form=Format.GO)
    if _CARGO.search(command):
        # A program of failing tests must not keep the others from being executed.
        every = command if "--no-fail-fast" in command else _CARGO.sub(r"\g<0> --no-fail-fast", command)
        return Plan(command=every, form=Format.CARGO)
    return _of_node(command, last)


def _of_node(command: str, last: str) -> Plan:
    if _NODE.search(command) and "--test-reporter" not in command:
        more = f'--test --test-reporter=junit --test-reporter-destination="${VARIABLE}"'
        more += " --test-reporter=spec --test-reporter-destination=stdout"
        return Plan(command=command.replace("--test", more, 1), form=Format.JUNIT)
    if _JEST.search(last) and "--json" not in command:
        return Plan(command=f'{command} --json --outputFile="${VARIABLE}"', form=Format.JEST)
    if _VITEST.search(last) and "--reporter" not in command:
        more = f'--reporter=default --reporter=json --outputFile.json="${VARIABLE}"'
        return Plan(command=f"{command} {more}", form=Format.JEST)
    return Plan(command=command)


def _through_package(first: str, command: str, manager: str, script: str, arguments: str) -> Plan:
    """The script's runner, told through the package manager, behind the command's own `arguments`. `first` is what is
    executed before it."""
    plan = command_for(script)
    if plan.form is Format.JUNIT and _NODE.search(script):
        told = f'NODE_OPTIONS="${{NODE_OPTIONS:-}} {_NODE_REPORTERS}" {command.lstrip()}'
        return Plan(command=f"{first} {told}".lstrip(), form=Format.JUNIT)
    if plan.form is Format.JEST:
        dashes = " --" if manager == "npm" and " -- " not in f"{arguments} " else ""
        return Plan(command=f"{first}{command}{dashes}{plan.command.removeprefix(script)}".strip(), form=Format.JEST)
    return Plan(command=first + command)


def taken_apart(stdout: str) -> bytes:
    """The report in what a plan's script wrote to its standard output. ReportError when there is none."""
    if not stdout.strip():
        raise ReportError("the test command left no report", Unusable.ABSENT)
    try:
        packed = base64.b64decode(stdout.strip(), validate=True)
        unpacker = zlib.decompressobj(wbits=31)
        data = unpacker.decompress(packed, MAX_BYTES + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ReportError("the report came damaged, or larger than is kept") from error
    if len(data) > MAX_BYTES:
        raise ReportError(f"the report is larger than {MAX_BYTES >> 20} MiB", Unusable.TOO_LARGE)
    if not unpacker.eof or unpacker.unused_data:
        raise ReportError("the report came damaged, or larger than is kept")
    return data
