"""Where packages are kept (API.md, Configuration: Storage)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flame_fast.application.storage import Storage, open_storage
from flame_fast.errors import FlameError, FlameErrorCode


@pytest.fixture
def package(tmp_path: Path) -> str:
    path = tmp_path / "package"
    path.write_bytes(b"content")
    return str(path)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    (tmp_path / "store").mkdir()
    return open_storage(f"file://{tmp_path}/store", tmp_path / "home")


def test_the_default_lies_in_the_data_directory(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    assert storage.directory == str(tmp_path / "packages")
    assert os.path.isdir(storage.directory)


def test_a_package_comes_and_goes(storage: Storage, package: str) -> None:
    url = storage.upload(package, "a.tar.gz")
    assert url == f"file://{storage.directory}/a.tar.gz"
    assert Path(storage.directory, "a.tar.gz").read_bytes() == b"content"
    assert os.path.exists(package)
    storage.delete(url)
    assert os.listdir(storage.directory) == []
    storage.delete(url)  # gone already: no error


def test_uploading_again_changes_nothing(storage: Storage, package: str) -> None:
    for _ in range(3):
        storage.upload(package, "a.tar.gz", "tag")
    assert os.listdir(storage.directory) == ["a.tar.gz"]


def test_a_stored_package_stays_as_it_is_when_the_file_goes(storage: Storage, package: str) -> None:
    storage.upload(package, "a.tar.gz")
    os.unlink(package)
    assert Path(storage.directory, "a.tar.gz").read_bytes() == b"content"


def test_across_file_systems_it_is_copied_whole(storage: Storage, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    storage.upload(package, "a.tar.gz")
    assert Path(storage.directory, "a.tar.gz").read_bytes() == b"content"
    assert os.listdir(storage.directory) == ["a.tar.gz"]


def test_a_failed_upload_leaves_nothing(storage: Storage, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        storage.upload(package, "a.tar.gz")
    assert os.listdir(storage.directory) == []


def test_many_upload_the_same_at_once(storage: Storage, package: str) -> None:
    code = (
        "import sys; from flame_fast.application.storage import Storage\n"
        "for _ in range(200): Storage(sys.argv[1]).upload(sys.argv[2], 'a.tar.gz')"
    )
    command = [sys.executable, "-c", code, storage.directory, package]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert os.listdir(storage.directory) == ["a.tar.gz"]
    assert Path(storage.directory, "a.tar.gz").read_bytes() == b"content"


def test_what_an_upload_cut_off_left_is_found_by_its_tag(storage: Storage) -> None:
    Path(storage.directory, ".a.tar.gz.tag.part").touch()
    storage.discard("a.tar.gz", "other")
    assert os.listdir(storage.directory) == [".a.tar.gz.tag.part"]
    storage.discard("a.tar.gz", "tag")
    assert os.listdir(storage.directory) == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file://{tmp}/missing", "'{tmp}/missing' does not exist"),
        ("file://{tmp}/file", "'{tmp}/file' is not a directory"),
        ("file://relative/path", "expected file:// and an absolute path, got 'file://relative/path'"),
        ("file://", "expected file:// and an absolute path, got 'file://'"),
        ("s3://bucket/key", "package.storage: expected file://DIR, got 's3://bucket/key'"),
        ("s3:bucket", "package.storage: expected file://DIR, got 's3:bucket'"),
        ("packages", "got 'packages'; for a directory write its absolute path"),
        ("./packages", "got './packages'; for a directory write its absolute path"),
        ("file:packages", "expected file:// and an absolute path, got 'file:packages'"),
        ("file://host/share", "expected file:// and an absolute path, got 'file://host/share'"),
        ("~nobody-here/packages", "'~nobody-here' is nobody's home directory here; write the path out"),
        ("file://~nobody-here/x", "'~nobody-here' is nobody's home directory here; write the path out"),
        ("~/missing", "'{tmp}/missing' does not exist"),
        ("{tmp}/missing", "'{tmp}/missing' does not exist"),
        ("file:{tmp}/missing", "'{tmp}/missing' does not exist"),
    ],
)
def test_a_bad_url_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, expected: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FlameError) as caught:
        open_storage(url.replace("{tmp}", str(tmp_path)), tmp_path)
    assert caught.value.code == FlameErrorCode.INVALID_CONFIG
    assert "package.storage" in caught.value.message
    assert expected.replace("{tmp}", str(tmp_path)) in caught.value.message


@pytest.mark.parametrize("form", ["file://{}", "file:{}", "file://localhost{}", "FILE://{}", "{}"])
def test_a_directory_is_named_by_a_url_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("store", "localhost", "a:b"):
        (tmp_path / name).mkdir()
        assert open_storage(form.format(tmp_path / name), tmp_path).directory == str(tmp_path / name)
        if "localhost" not in form:
            assert open_storage(form.format(f"~/{name}"), tmp_path).directory == str(tmp_path / name)
    assert not (Path.cwd() / "~").exists()


def test_odd_paths_work_written_plainly_or_as_a_url(tmp_path: Path) -> None:
    for name in ("a b", "50%20"):
        (tmp_path / name).mkdir()
        assert open_storage(f"file://{tmp_path}/{name}", tmp_path).directory == str(tmp_path / name)
    assert open_storage(f"file://localhost{tmp_path}/a%20b", tmp_path).directory == str(tmp_path / "a b")
