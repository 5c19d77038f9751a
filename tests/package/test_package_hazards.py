"""Hazards of packing: another packing, a fork, a shortage, a key that appears, its own output."""

from __future__ import annotations

import os
import random
import resource
import shutil
import tarfile
import tempfile
import threading
from pathlib import Path

import pytest
from gates import in_child, passes_in_child

from flame_fast.package import pack, snapshot, stored_index, unpacking
from flame_fast.package.packing import PackageInfo
from flame_fast.package.snapshot import Snapshot

KEY = b"-----BEGIN EC PRIVATE KEY-----\nabc\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "tree" / "a.py").write_text("a = 1\n")
    return tmp_path / "tree"


def names(info: PackageInfo) -> list[str]:
    with tarfile.open(info.path) as archive:
        return archive.getnames()


def test_two_packings_into_one_file_keep_each_its_own_package(tmp_path: Path, nothing_left: Path) -> None:
    trees = []
    for number in range(2):
        trees.append(tmp_path / f"tree{number}")
        trees[-1].mkdir()
        (trees[-1] / "same").write_bytes(random.Random(number).randbytes(3000))
    expected = [pack(tree, tmp_path / "alone", home=str(tmp_path / "other home")).digest for tree in trees]

    def pack_often(number: int) -> None:
        for turn in range(30):
            (trees[number] / "turn").write_bytes(b"%d" % turn)
            pack(trees[number], tmp_path / "one.tar.gz")
        (trees[number] / "turn").unlink()

    threads = [threading.Thread(target=pack_often, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tree, digest in zip(trees, expected, strict=True):
        info = pack(tree, tmp_path / "last.tar.gz")
        assert info.digest == digest
        assert passes_in_child(lambda info=info: unpacking.ensure_unpacked(info.path, info.digest, str(nothing_left)))


def test_a_child_forked_while_a_package_is_stored_keeps_nobody_waiting(
    tree: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: Path
) -> None:
    """The child inherits the lock's descriptor: so the parent must unlock it, not only close it."""
    leave, told = os.pipe()
    children = []
    for module, name in ((stored_index, "_write_index"), (unpacking, "write_manifest")):
        whole = getattr(module, name)

        def forking(*arguments: object, whole: object = whole) -> None:
            children.append(in_child(lambda: (os.close(told), os.read(leave, 1))))
            whole(*arguments)

        monkeypatch.setattr(module, name, forking)

    def pack_and_unpack(text: str) -> bool:
        (tree / "a.py").write_text(text)
        info = pack(tree, tree.parent / "out")
        return bool(unpacking.ensure_unpacked(info.path, info.digest, str(nothing_left)))

    try:
        pid = in_child(lambda: pack_and_unpack("first"))
        assert os.waitpid(pid, 0)[1] == 0
        monkeypatch.undo()
        pid = in_child(lambda: pack_and_unpack("second"))
        assert os.waitpid(pid, 0)[1] == 0  # pytest's time-out, if it waits for the first one's children
    finally:
        os.close(told)
        os.close(leave)


@pytest.mark.parametrize("size", [100, 3 << 20])
@pytest.mark.parametrize("change", ["overwritten", "replaced"])
def test_a_key_that_appears_after_the_look_is_not_packed(
    tree: Path, monkeypatch: pytest.MonkeyPatch, size: int, change: str
) -> None:
    pem = tree / "late.pem"
    pem.write_bytes(b"x" * size)
    look = Snapshot.find_secrets

    def look_and_write(self: Snapshot, *known: object) -> None:
        look(self, *known)
        if change == "replaced":
            pem.unlink()
        pem.write_bytes((KEY + b"x" * size)[:size])

    monkeypatch.setattr(Snapshot, "find_secrets", look_and_write)
    with pytest.warns(UserWarning):
        info = pack(tree, tree.parent / "out")
    with tarfile.open(info.path) as archive:
        held = [archive.extractfile(member).read() for member in archive if member.isfile()]
    assert not any(KEY[:20] in content for content in held)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="look like secrets: late.pem"):
        assert "late.pem" not in names(pack(tree, tree.parent / "out"))


def test_a_look_that_fails_finds_a_secret(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that fails once cannot be had for the asking."""
    (tree / "key.pem").write_bytes(KEY)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(snapshot.os, "read", fail)
        with pytest.warns(UserWarning, match="look like secrets: key.pem"):
            assert "key.pem" not in names(pack(tree, tree.parent / "out"))
    (tree / "key.pem").write_bytes(b"public")
    assert "key.pem" in names(pack(tree, tree.parent / "out"))


def test_a_process_without_descriptors_gets_an_error_not_half_a_package(tree: Path) -> None:
    for number in range(20):
        (tree / f"{number}").mkdir()
        (tree / f"{number}" / "b.py").write_text("b")

    def starve() -> None:
        for spare in range(1, 12):
            most = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (most + spare, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            try:
                assert pack(tree, tree.parent / "out").files == 22
            except OSError:
                continue

    assert passes_in_child(starve)


def test_a_directory_whose_files_cannot_be_looked_at_is_not_passed_over_in_silence() -> None:
    """It may be listed, but not entered."""
    base = Path(tempfile.mkdtemp())
    try:
        for path in (base, base / "tree", base / "tree" / "listed", base / "out", base / "home"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        (base / "tree" / "listed" / "a.py").write_text("a")
        (base / "tree" / "listed").chmod(0o744)

        def as_somebody() -> None:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            with pytest.warns(UserWarning, match="cannot be read: listed/a.py$"):
                pack(base / "tree", base / "out", home=str(base / "home"))

        assert passes_in_child(as_somebody)
    finally:
        (base / "tree" / "listed").chmod(0o755)
        shutil.rmtree(base)


@pytest.mark.parametrize("out", ["out.tar.gz", "sub/out.tar.gz", "dist", "."])
def test_what_a_packing_has_written_into_the_directory_is_not_packed_by_the_next(tree: Path, out: str) -> None:
    (tree / "sub").mkdir()
    (tree / "dist").mkdir()
    first, second = pack(tree, tree / out), pack(tree, tree / out)
    assert (second.digest, second.size) == (first.digest, first.size)
    assert not [name for name in names(second) if name.endswith(".tar.gz")]


def test_a_package_is_read_only_for_it_may_be_the_stored_one_by_another_name(tree: Path) -> None:
    info = pack(tree, tree.parent / "one.tar.gz")
    assert os.stat(info.path).st_mode & 0o777 == 0o400
    again = pack(tree, tree.parent / "one.tar.gz")
    assert os.stat(again.path).st_mode & 0o777 == 0o400
