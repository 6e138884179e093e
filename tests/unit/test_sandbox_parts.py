"""The parts of the sandbox that need none: streams, the filter's bytes, command lines, what a machine offers."""

from __future__ import annotations

import errno
import struct

import pytest

from agent.protocols import SandboxLimits
from worker.adapters.sandbox import command, probe, seccomp
from worker.adapters.sandbox.capture import Stream, readable
from worker.adapters.sandbox.uids import span
from worker.errors import SandboxUnavailable


@pytest.mark.parametrize("keep", [0, 1, 7, 1000])
@pytest.mark.parametrize("pieces", [[b""], [b"0123456789"], [b"01", b"2345678", b"9"], [b"x" * 5000, b"end"]])
def test_a_stream_keeps_its_ends(keep, pieces):
    stream = Stream(keep)
    for piece in pieces:
        stream.feed(piece)
    data = b"".join(pieces)
    assert stream.total == len(data)
    captured = stream.captured()
    if len(data) <= keep:
        assert (stream.whole, captured.text) == (data, data.decode())
    else:
        assert stream.whole is None
        assert captured.elided_bytes == len(data) - keep
        assert captured.text.startswith(data[: (keep + 1) // 2].decode())
        assert captured.text.endswith(data[len(data) - keep // 2 :].decode())


def test_what_is_readable():
    assert readable(b"a\tb\nc\r\nd\re") == "a\tb\nc\nd\ne"
    assert readable(b"\x1b[31m\x00\xff\xc2\x9b\x7f") == "\ufffd[31m" + "\ufffd" * 4


def answer(program: bytes, nr: int, *args: int, arch: int) -> int:
    """Run the filter as the kernel would."""
    data = struct.pack("<IIQ6Q", nr, arch, 0, *(list(args) + [0] * 6)[:6])
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            hit = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += yes if hit else no


@pytest.mark.parametrize("machine", sorted(seccomp.ABIS))
def test_the_filter(machine):
    abi = seccomp.ABIS[machine]
    program = seccomp.program(machine)
    allow, denied = 0x7FFF0000, {name: 0x50000 | getattr(errno, name) for name in ("EPERM", "ENOSYS", "EAFNOSUPPORT")}

    def ask(nr: int, *args: int, arch: int = abi.arch) -> int:
        return answer(program, nr, *args, arch=arch)

    assert ask(63) == allow
    assert ask(63, arch=0x40000003) == denied["ENOSYS"]
    for name, numbers in seccomp.DENIED.items():
        if numbers[abi.column] is not None:
            assert ask(numbers[abi.column]) == denied["EPERM"], name
            assert (
                answer(seccomp.program(machine, permit=frozenset({name})), numbers[abi.column], arch=abi.arch) == allow
            )
    for family in range(50):
        expected = allow if family in seccomp.ALLOWED_FAMILIES else denied["EAFNOSUPPORT"]
        assert ask(abi.socket, family) == ask(abi.socketpair, family) == expected
    assert ask(abi.socket, 1 << 32 | 40) == denied["EAFNOSUPPORT"]
    assert ask(abi.ioctl, 0, 0x1_0000_5412) == denied["EPERM"]
    assert ask(abi.ioctl, 0, 0x5401) == allow
    assert ask(abi.clone, 0x10000011) == denied["EPERM"]
    assert ask(abi.clone, 0x3D0F00) == allow  # a thread
    assert ask(seccomp.CLONE3) == denied["ENOSYS"]
    if abi.x32:
        assert ask(0x40000000) == ask(0xFFFFFFFF) == denied["ENOSYS"]


def test_another_machine_has_no_filter():
    assert not seccomp.supported("mips")
    with pytest.raises(KeyError):
        seccomp.program("mips")


@pytest.mark.parametrize(
    ("argv", "env"), [([], {}), (["a\0b"], {}), (["a"], {"A=B": "c"}), (["a"], {"--": "c"}), (["a"], {"A": "\0"})]
)
def test_what_cannot_be_a_command(argv, env):
    with pytest.raises(ValueError):
        command.program(argv, cwd="/", env=env, limits=SandboxLimits())


def test_what_this_machine_offers():
    machine = probe.probe()
    assert machine.missing == ()
    assert machine.user_namespaces
    assert machine.seccomp_filter
    assert machine.best is not None
    assert machine.best.version == max(found.version for found in machine.bwraps)


def test_a_refused_namespace_names_what_mends_it(monkeypatch):
    for name, value in (
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
    ):
        monkeypatch.setattr(probe, "_sysctl", lambda asked, name=name, value=value: value if asked == name else None)
        assert f"sysctl -w {name.replace('/', '.')}=" in probe.userns_hint("setting up uid map")
    monkeypatch.setattr(probe, "_sysctl", lambda _: None)
    assert "container" in probe.userns_hint("creating new namespace failed")
    assert "Can't find" in probe.userns_hint("Can't find source path")


def test_the_call_numbers_are_those_of_libseccomp():
    """Our table against the library's, for both machines, where it can be loaded."""
    pyseccomp = pytest.importorskip("pyseccomp", reason="libseccomp.so.2 is not here", exc_type=Exception)
    for arch, column in ((pyseccomp.Arch.X86_64, 0), (pyseccomp.Arch.AARCH64, 1)):
        for name, numbers in seccomp.DENIED.items():
            known = pyseccomp.resolve_syscall(arch, name)
            known = known.decode() if isinstance(known, bytes) else known
            if isinstance(known, int) and known >= 0:
                assert numbers[column] == known, name
            elif numbers[column] is not None:
                assert name in {"quotactl_fd", "mount_setattr"}, f"{name}: the library is older than the call"


def test_uids_come_from_what_is_mapped():
    assert len(span("0 0 4294967295")) == 1 << 20
    assert span("0 0 1\n1 100000 65536")[-1] < 65_534
    with pytest.raises(SandboxUnavailable):
        span("0 1000 1")
