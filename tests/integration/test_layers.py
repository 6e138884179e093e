"""Layers on disk: kept whole or not at all, read-only, shared, bounded."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from worker.adapters.layers import DiskLayers
from worker.errors import Permanent

KEY, OTHER, THIRD = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def layers(tmp_path):
    return DiskLayers(tmp_path)


def make(layers: DiskLayers, key: str, size: int = 10) -> None:
    with layers.draft(key) as draft:
        assert draft is not None
        (draft.mount.source / "data").write_bytes(b"x" * size)
        draft.keep()


def found(layers: DiskLayers, key: str) -> bool:
    with layers.use(key) as layer:
        return layer is not None


def test_a_draft_is_seen_by_nobody_until_it_is_kept(layers, tmp_path):
    with layers.draft(KEY) as draft:
        assert draft is not None
        assert draft.mount.writable
        assert draft.mount.target == "/opt/setup"
        assert not found(layers, KEY)
        with layers.draft(KEY) as second:  # in the making: nobody waits for it
            assert second is None
    assert not found(layers, KEY)
    assert list((tmp_path / "drafts").iterdir()) == []
    make(layers, KEY)
    with layers.use(KEY) as layer:
        assert layer is not None
        (mount,) = layer.mounts
        assert not mount.writable
        assert (mount.source / "data").read_bytes() == b"x" * 10


def test_what_a_layer_means(layers):
    with layers.draft(KEY) as draft:
        assert draft is not None
        for folder in ("venv/bin", "node/node_modules/.bin", "go", "cargo", "bin", ".cache/pip", ".tmp"):
            (draft.mount.source / folder).mkdir(parents=True)
        draft.keep()
    with layers.use(KEY) as layer:
        assert layer is not None
        assert [mount.target for mount in layer.mounts] == ["/opt/setup", "/node_modules"]
        assert layer.path == ("/opt/setup/venv/bin", "/opt/setup/bin", "/node_modules/.bin")
        assert layer.env["VIRTUAL_ENV"] == "/opt/setup/venv"
        assert layer.env["CARGO_HOME"] == "/opt/setup/cargo"
        assert not (layer.mounts[0].source / ".cache").exists()
        assert not (layer.mounts[0].source / ".tmp").exists()


def test_what_a_stranger_leaves_is_made_harmless(layers, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "secret").write_text("s")
    with layers.draft(KEY) as draft:
        assert draft is not None
        tree = draft.mount.source
        (tree / "su").write_text("x")
        (tree / "su").chmod(0o6777)
        (tree / "closed").mkdir()
        (tree / "closed" / "file").write_text("x")
        (tree / "closed").chmod(0)
        os.mkfifo(tree / "fifo")
        (tree / "link").symlink_to(outside)
        (tree / "venv").symlink_to(outside)
        draft.keep()
    with layers.use(KEY) as layer:
        assert layer is not None
        tree = layer.mounts[0].source
        assert sorted(path.name for path in tree.iterdir()) == ["closed", "link", "su", "venv"]
        assert stat.S_IMODE((tree / "su").stat().st_mode) == 0o755
        assert stat.S_IMODE((tree / "closed").stat().st_mode) & 0o777 == 0o755
        assert layer.path == ()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700


def test_one_that_is_too_large_is_refused_also_when_it_is_many_empty_files(tmp_path):
    layers = DiskLayers(tmp_path, largest=1 << 20)
    with pytest.raises(Permanent, match="MiB"):
        make(layers, KEY, size=2 << 20)
    with layers.draft(KEY) as draft:
        assert draft is not None
        for number in range(300):
            (draft.mount.source / str(number)).touch()
        assert draft.too_large
        with pytest.raises(Permanent, match="MiB"):
            draft.keep()
    assert not found(layers, KEY)


def test_the_longest_unused_goes_first_and_never_one_in_use(tmp_path):
    layers = DiskLayers(tmp_path, room=2_500_000)
    for age, key in ((300, KEY), (200, OTHER)):
        make(layers, key, 1_000_000)
        home = tmp_path / "layers" / key
        os.utime(home, (home.stat().st_mtime - age,) * 2)
    with layers.use(KEY):  # used now, though made first
        pass
    make(layers, THIRD, 1_000_000)
    assert [found(layers, key) for key in (KEY, OTHER, THIRD)] == [True, False, True]
    os.utime(tmp_path / "layers" / KEY, (0, 0))
    with layers.use(KEY):
        os.utime(tmp_path / "layers" / KEY, (0, 0))
        make(layers, OTHER, 1_000_000)
        assert found(layers, KEY)
    os.utime(tmp_path / "layers" / KEY, (0, 0))
    assert layers.prune() == [KEY]


def test_what_a_maker_that_died_left_is_removed(layers, tmp_path):
    for key in (KEY, OTHER):
        (tmp_path / "drafts" / f"{key}-dead" / "tree").mkdir(parents=True)
    make(layers, KEY)
    assert list((tmp_path / "drafts").iterdir()) == []


def test_of_many_makers_at_once_one_makes(layers):
    made = []
    barrier = threading.Barrier(4)

    def run() -> None:
        barrier.wait(10)
        with layers.draft(KEY) as draft:
            if draft is not None and not found(layers, KEY):
                draft.keep()
                made.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [1]
    assert found(layers, KEY)


def test_keys(layers):
    assert layers.key(["a", "b"]) == layers.key(["a", "b"]) != layers.key(["ab"])
    with pytest.raises(Permanent), layers.use("../../etc"):
        pass
