"""npm, cargo, go and uv for real: asked on the host, run in the sandbox through the proxy, used offline afterwards.

A client that this machine lacks is skipped with that reason; none is ever asked for anything beyond loopback.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.protocols import Isolation, SandboxLimits, Session
from tests.package_index import wheel
from tests.registries import MODULE, NAME, Registries, registries
from tests.sandboxes import place
from tests.toolchains import tool, toolchain
from worker.adapters.egress import HostPattern, Policy, ProxyEgress, ask
from worker.adapters.layers import DiskLayers
from worker.adapters.sandbox import ToolSandbox
from worker.errors import IsolationMissing
from worker.stages.config import RepositoryConfig
from worker.stages.layer import layer_of, spec
from worker.stages.setup import Builder, SetUpFailed


@pytest.fixture(scope="module")
def index():
    with registries() as running:
        yield running


OLDEST_CARGO = (1, 70)


@dataclass
class Clients:
    """A machine whose user configured the clients for our registries."""

    index: Registries
    folder: Path
    level: Isolation = Isolation.STRICT
    tools: list[Path] = field(default_factory=list)

    def set_up(self, files: dict[str, str], **settings) -> None:
        try:
            self.place = place(self.folder / "place", files, isolation=self.level, cgroup=os.environ.get("TEST_CGROUP"))
        except IsolationMissing:  # the clients are what is tested here
            self.place = place(self.folder / "other", files, isolation=Isolation.BASIC)
        self.sandbox = ToolSandbox(self.place.sandbox, self.tools)
        path = os.pathsep.join([*(str(p) for f in self.tools for p in (f / "bin", f)), os.environ["PATH"]])
        indexes = ask({"PATH": path, **self.index.configure(self.folder)})
        assert HostPattern(NAME, self.index.port) in indexes.hosts
        # Listed as private because the double is on loopback; what it is for comes from the clients.
        policy = Policy(private=(HostPattern(NAME, self.index.port),))
        self.layers = DiskLayers(self.folder / "setups")
        builder = Builder(
            sandbox=self.sandbox,
            repositories=self.place.repos,
            layers=self.layers,
            egress=ProxyEgress(self.folder / "egress", policy, lambda: indexes, resolve=self.index.resolve),
        )
        self.index.asked.clear()
        config = RepositoryConfig(**settings)
        try:
            self.key, how = builder.ensure(self.place.git_dir, "owner/name", self.place.commit, config)
        except SetUpFailed as failed:
            pytest.fail(f"{failed}\n{failed.log}")
        assert how == "made"

    def later(self, script: str) -> str:
        """What a command of a later run prints, without any network, in a workspace of its own."""
        with layer_of(self.layers, self.key) as layer:
            session: Session = self.sandbox.open(spec(self.place.git_dir, self.place.commit, SandboxLimits(), layer))
            try:
                done = session.exec(["bash", "-c", script], timeout=180)
                assert done.returncode == 0, done
                assert session.snapshot() == self.place.tree
                return done.stdout.text.strip()
            finally:
                session.close()


@pytest.fixture
def clients(index, tmp_path) -> Clients:
    return Clients(index, tmp_path)


def npm_files(index: Registries) -> dict[str, str]:
    return {
        "package.json": '{"name": "app", "version": "1.0.0", "workspaces": ["packages/*"],'
        ' "dependencies": {"tinynode": "^1.0.0"}}',
        "packages/part/package.json": '{"name": "part", "version": "1.0.0"}',
        "packages/part/index.js": "exports.part = 'ours';\n",
        "package-lock.json": f"""{{"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
          "packages": {{
            "": {{"name": "app", "version": "1.0.0", "workspaces": ["packages/*"],
                  "dependencies": {{"tinynode": "^1.0.0"}}}},
            "node_modules/part": {{"resolved": "packages/part", "link": true}},
            "packages/part": {{"version": "1.0.0"}},
            "node_modules/tinynode": {{"version": "1.0.0",
              "resolved": "{index.url}/npm/tinynode/-/tinynode-1.0.0.tgz", "integrity": "{index.integrity}",
              "hasInstallScript": true, "bin": {{"tinynode": "bin/tinynode.js"}}}}}}}}""",
        "test.js": "require('assert').strictEqual(require('tinynode').answer, 42);\n",
        ".gitignore": "target/\n",
    }


@pytest.mark.parametrize("level", list(Isolation))
def test_npm(clients, index, level):
    clients.level = level
    for name in ("node", "npm"):
        if (folder := tool(name)) is not None:
            clients.tools.append(folder)
    clients.set_up(npm_files(index))
    assert index.asked.count("/npm/tinynode/-/tinynode-1.0.0.tgz") == 1
    assert clients.later("node -e \"console.log(require('tinynode').answer)\" && node test.js && tinynode") == "42\n42"
    assert clients.later("node -p \"require('part').part\"; readlink /node_modules/part").split() == [
        "ours",
        "/workspace/packages/part",
    ]
    # Where vite keeps its configuration, once read: without it, it does not start.
    assert clients.later("mkdir -p /node_modules/.vite-temp && echo x >/node_modules/.vite-temp/x && cat /tmp/x") == "x"
    # The package's own script ran. What it wrote is in the layer, and nowhere else.
    assert clients.later(
        "cat /node_modules/tinynode/made-by-postinstall /opt/setup/node-was-here; touch /node_modules/x 2>&1 || :"
    ).splitlines() == ["tinynode", "stolen", "touch: cannot touch '/node_modules/x': Read-only file system"]


CARGO_LOCK = """# This file is automatically @generated by Cargo.
# It is not intended for manual editing.
version = 3

[[package]]
name = "app"
version = "0.1.0"
dependencies = [
 "tinycrate",
]

[[package]]
name = "tinycrate"
version = "1.0.0"
source = "{source}"
checksum = "{checksum}"
"""


def test_cargo(clients, index):
    program = (toolchain() or Path("/usr")) / "bin" / "cargo"
    if program.is_file() and (said := _version(program)) < OLDEST_CARGO:
        pytest.skip(f"{program} is of version {said[0]}.{said[1]}: it knows no sparse registries")
    if (folder := tool("cargo")) is not None:
        clients.tools.append(folder)
    clients.set_up(
        {
            "Cargo.toml": '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n\n'
            '[dependencies]\ntinycrate = "1"\n',
            "Cargo.lock": CARGO_LOCK.format(source=default_registry(), checksum=index.checksum),
            "src/lib.rs": "#[test]\nfn it_is() {\n    assert_eq!(tinycrate::answer(), 42);\n}\n",
            ".gitignore": "target/\n",
        }
    )
    assert index.asked.count("/crates/tinycrate/1.0.0") == 1
    assert "1 passed" in clients.later("cargo build --offline --locked && cargo test --offline --quiet")


def _version(program: Path) -> tuple[int, int]:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, cwd="/").stdout
    major, minor, *_ = told.split()[1].split(".")
    return int(major), int(minor)


def default_registry() -> str:
    """How cargo writes its default registry into a lock file: taken from cargo's own program."""
    program = (toolchain() or Path("/usr")) / "bin" / "cargo"
    if not program.is_file():
        pytest.skip("the only cargo here is rustup's stand-in, without a toolchain of this user")
    found = re.search(rb"https://[a-z.]+/[a-z-]+/[a-z.]+-index", program.read_bytes())
    if found is None:
        pytest.skip("this cargo doesn't say where its default registry is")
    return f"registry+{found[0].decode()}"


def test_go(clients, index):
    if (folder := tool("go")) is not None:
        clients.tools.append(folder)
    clients.set_up(
        {
            "go.mod": f"module example.test/app\n\ngo 1.19\n\nrequire {MODULE} v1.0.0\n",
            "go.sum": index.go_sum,
            "app_test.go": 'package app\n\nimport (\n\t"testing"\n\n\t"' + MODULE + '"\n)\n\n'
            "func TestIt(t *testing.T) {\n\tif tinymod.Answer() != 42 {\n\t\tt.Fatal()\n\t}\n}\n",
        }
    )
    assert index.asked.count(f"/go/{MODULE}/@v/v1.0.0.zip") == 1
    assert clients.later("go test -count=1 ./... && go list -m all").split()[0] == "ok"


def test_uv(clients, index):
    if (folder := tool("uv")) is not None:
        clients.tools.append(folder)
    url = f"{index.url}/files/tinypkg-1.0-py3-none-any.whl"
    clients.set_up(
        {
            "pyproject.toml": '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = []\n'
            '[dependency-groups]\ntest = ["tinypkg"]\n',
            "uv.lock": f"""version = 1
revision = 1
requires-python = ">=3.10"

[[package]]
name = "app"
version = "1"
source = {{ virtual = "." }}

[package.dev-dependencies]
test = [
    {{ name = "tinypkg" }},
]

[package.metadata]

[package.metadata.requires-dev]
test = [{{ name = "tinypkg" }}]

[[package]]
name = "tinypkg"
version = "1.0"
source = {{ registry = "http://elsewhere.test/simple" }}
wheels = [
    {{ url = "{url.replace(NAME, "elsewhere.test")}", hash = "sha256:{index.wheel_digest}", size = {len(wheel())} }},
]
""",
        }
    )
    assert "/files/tinypkg-1.0-py3-none-any.whl" in index.asked
    assert clients.later("python3 -c 'import tinypkg; print(tinypkg.ANSWER)' && tinypkg") == "42\n42"
