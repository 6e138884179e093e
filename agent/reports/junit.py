"""JUnit XML, as pytest, node's test runner and many others write it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn
from xml.parsers import expat  # any DTD or entity ends the parse: nothing expands, nothing outside is read

from agent.reports.cases import Case, Cases, ReportError, Unusable

_DEEPEST = 64
_ENDS = {"failure": Case.FAILED, "error": Case.ERROR, "skipped": Case.SKIPPED}


def parse(data: bytes, files: Collection[str]) -> Cases:
    reader = _Reader(files)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS]:
            raise ReportError("the report holds no XML element", Unusable.INCOMPLETE) from error
        raise ReportError(f"the report is not well-formed XML ({error})") from error
    except (ValueError, LookupError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"the report can't be decoded ({str(error)[:200]})") from error
    if not reader.suites:
        raise ReportError("the report is XML, but no JUnit report: it has no testsuite")
    return reader.cases


def _refuse(*_: Any) -> NoReturn:
    raise ReportError("the report declares a document type or entities, which no test runner does")


class _Reader:
    def __init__(self, files: Collection[str]) -> None:
        self.cases = Cases()
        self.suites = 0
        self._files = files if isinstance(files, set | frozenset) else frozenset(files)
        self._depth = 0
        self._open: tuple[str, int] | None = None
        self._case = Case.PASSED

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ReportError(f"the report's elements lie deeper than {_DEEPEST}")
        if name in {"testsuite", "testsuites"}:
            self.suites += 1
        elif name == "testcase" and self._open is None:
            self._open, self._case = (self._id(attributes), self._depth), Case.PASSED
        elif self._open is not None and name in _ENDS and self._depth == self._open[1] + 1:
            case = _ENDS[name]
            if self._case is not Case.ERROR and (case is not Case.SKIPPED or self._case is Case.PASSED):
                self._case = case

    def end(self, name: str) -> None:
        if self._open is not None and name == "testcase" and self._depth == self._open[1]:
            self.cases.add(self._open[0], self._case)
            self._open = None
        self._depth -= 1

    def _id(self, attributes: dict[str, str]) -> str:
        """pytest's node id where a class name leads to a file; otherwise what names there are."""
        classname, name, file = (attributes.get(key, "") for key in ("classname", "name", "file"))
        if not classname:  # pytest: a module that could not be collected
            return self._module(name.split(".")) or name
        words = classname.split(".")
        for end in range(len(words), 0, -1):
            path = self._module(words[:end])
            if path is None and file.endswith(".py") and file.removesuffix(".py").split("/") == words[:end]:
                path = file
            if path is not None:
                return "::".join([path, *words[end:], name])
        return "::".join([*([file] if file else []), classname, name])

    def _module(self, words: list[str]) -> str | None:
        path = "/".join(words) + ".py"
        return path if path in self._files else None
