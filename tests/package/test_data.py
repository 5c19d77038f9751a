"""Data beside code: what a package leaves out, what it says of that, and that workers find it all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from flame_fast.kernels import archive
from hypothesis import given
from hypothesis import strategies as st

from flame_fast.package import pack
from flame_fast.package.explanation import explain
from flame_fast.package.snapshot import Snapshot

LARGEST = 10_000
MOST_FILES = 10


@pytest.fixture
def home(tmp_path: Path) -> str:
    return str(tmp_path / "home")


def write(root: Path, files: dict[str, int]) -> None:
    for name, size in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(size)


def split(root: Path, largest: int = LARGEST, most_files: int = MOST_FILES) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Return the paths that stay, and what does not."""
    with Snapshot(str(root), (), None, (), 1_000_000) as snapshot:
        kept, data = archive.without_data(snapshot.members, largest, most_files)
    paths = [os.fsdecode(kept[number][0]) for number in range(len(kept))]
    return paths, [(os.fsdecode(path), files, size) for path, files, size in data]


def test_large_files_and_folders_of_data_are_left_out(tmp_path: Path) -> None:
    small = {f"small/{number}.txt": 1 for number in range(MOST_FILES)}
    many = {f"many/deep/{number}.csv": 1 for number in range(MOST_FILES + 1)}
    write(tmp_path, {"main.py": 1, "model.bin": LARGEST + 1, "fits.bin": LARGEST, **small, **many})
    write(tmp_path, {"pkg/__init__.py": 1, "pkg/a.dat": 20_000, "pkg/b.dat": 30_000, "heavy/one": 6_000, "heavy/two": 6_000})
    kept, data = split(tmp_path)
    assert data == [("model.bin", 1, LARGEST + 1), ("heavy/", 2, 12_000), ("many/", 11, 11), ("pkg/", 2, 50_000)]
    assert kept == ["fits.bin", "main.py", "pkg", "pkg/__init__.py", "small", *sorted(small)]


@pytest.mark.parametrize(
    "code", ["a.py", "deep/er/a.py", "a.so", "a.cpython-311-x86_64-linux-gnu.so", "libx.so.1.2", "a.pyx", "pyproject.toml"]
)
def test_a_folder_with_code_stays_and_code_is_never_too_large(tmp_path: Path, code: str) -> None:
    write(tmp_path, {f"folder/{code}": LARGEST * 2 if code != "pyproject.toml" else 1, "folder/a.csv": LARGEST - 1})
    write(tmp_path, {f"folder/{number}": 1 for number in range(MOST_FILES * 2)})
    kept, data = split(tmp_path)
    assert data == [] and f"folder/{code}" in kept and "folder/a.csv" in kept


@pytest.mark.parametrize("name", ["py", "so", "x.so.py.csv", "a.pyw", "a.soo", ".so.", "so.1", "a.p"])
def test_what_only_looks_like_code_is_data(tmp_path: Path, name: str) -> None:
    write(tmp_path, {f"folder/{name}": LARGEST + 1})
    assert split(tmp_path) == ([], [("folder/", 1, LARGEST + 1)])


@given(st.dictionaries(st.from_regex(r"([ab]/){0,3}[ab]\.(py|csv)", fullmatch=True), st.integers(0, 30), max_size=12))
def test_a_model_says_the_same(tmp_path_factory: pytest.TempPathFactory, files: dict[str, int]) -> None:
    root = tmp_path_factory.mktemp("model")
    write(root, files)

    def has_code(folder: str) -> bool:
        return any(name.startswith(folder) and name.endswith(".py") for name in files)

    def is_data(folder: str) -> bool:
        inside = [size for name, size in files.items() if name.startswith(folder)]
        return not has_code(folder) and (sum(inside) > 20 or len(inside) > 2)

    def stays(name: str) -> bool:
        folders = [name[: at + 1] for at, char in enumerate(name) if char == "/"]
        return not any(map(is_data, folders)) and (name.endswith(".py") or files[name] <= 20)

    kept, data = split(root, 20, 2)
    assert [name for name in kept if "." in name] == sorted(name for name in files if stays(name))
    assert sum(count for _, count, _ in data) == sum(not stays(name) for name in files)
    assert sum(size for _, _, size in data) == sum(size for name, size in files.items() if not stays(name))


def test_one_notice_sums_by_folder(tmp_path: Path, home: str) -> None:
    project = tmp_path / "project"
    write(project, {"main.py": 1, "model.bin": 20_000_000, **{f"data/{number}/x.csv": 10 for number in range(1_100)}})
    with pytest.warns(UserWarning) as caught:
        info = pack(project, tmp_path, largest_file=10 * 1024**2, home=home)
    (warning,) = caught
    text = str(warning.message)
    assert "it is data: model.bin: 20 MB; data/: 1,100 files, 11 kB; workers see the directory itself" in text
    assert "'/model.bin' in .flameignore" in text
    assert info.files == 2  # with the generated project file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (project / ".flameignore").write_text("/model.bin\n/data/\n")
        pack(project, tmp_path, largest_file=10 * 1024**2, home=home)


def test_a_package_that_leaves_this_machine_has_all(tmp_path: Path, home: str) -> None:
    project = tmp_path / "project"
    write(project, {"main.py": 1, "model.bin": 20_000_000, "data/x.csv": 11_000_000})
    assert pack(project, tmp_path, home=home).files == 4  # with the generated project file
    command = [sys.executable, "-m", "flame_fast", "package", str(project), "-o", str(tmp_path / "whole.tar.gz")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FLAME_FAST_HOME": home})
    assert done.returncode == 0 and "4 files" in done.stdout
    found = explain(project, home=home)
    assert dict(found.excluded) == {
        "model.bin": "data: 20 MB; workers see the directory itself for it",
        "data": "data: 11 MB; workers see the directory itself for it",
    }
    assert found.why("data/x.csv").startswith("data/x.csv is left out, for data is: data: 11 MB")


def test_more_files_of_data_than_a_package_may_hold_are_no_problem(tmp_path: Path, home: str) -> None:
    project = tmp_path / "project"
    write(project, {"main.py": 1, **{f"data/{number}": 0 for number in range(300)}})
    limit = 500 * 1024**2
    with Snapshot(str(project), (), None, (), 100, largest_file=10_240) as snapshot:
        assert not snapshot.too_many
        snapshot.check_limits(limit, 100)
    with Snapshot(str(project), (), None, (), 100) as snapshot:
        assert snapshot.too_many
