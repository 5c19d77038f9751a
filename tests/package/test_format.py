"""The archive, the index and the manifest are, byte by byte, what kernels/archive/FORMAT.md says."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from flame_fast.kernels import archive

from flame_fast.package import PackageInfo, pack, unpacking

LARGE = os.urandom(archive.PIECE_BYTES + 1000)


@pytest.fixture
def home(nothing_left: Path) -> Path:
    return nothing_left


@pytest.fixture
def info(tmp_path: Path) -> PackageInfo:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "pyproject.toml").write_text("")
    (tree / "large").write_bytes(LARGE)
    (tree / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (tree / "sub" / "run.sh").chmod(0o755)
    (tree / "sub" / "link").symlink_to("run.sh")
    return pack(tree, tmp_path)


def number(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little")


def blocks_of(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Each block's kind, offset and length, and the tar in it."""
    found, at = [], 0
    while at < len(data):
        assert data[at : at + 4] == b"\x1f\x8b\x08\x04"
        assert data[at + 4 : at + 12] == bytes(4) + b"\x00\xff" + (45).to_bytes(2, "little")
        assert data[at + 12 : at + 16] == b"FF" + (41).to_bytes(2, "little")
        length = number(data, at + 17, 4)
        tar = zlib.decompress(data[at + 57 : at + length - 8], -zlib.MAX_WBITS)
        assert number(data, at + length - 8, 4) == zlib.crc32(tar)
        assert number(data, at + length - 4, 4) == number(data, at + 21, 4) == len(tar)
        found.append((data[at + 16], at, length, tar))
        at += length
    return found


def test_the_archive(info: PackageInfo) -> None:
    data = Path(info.path).read_bytes()
    *blocks, (kind, _, _, end) = blocks_of(data)
    assert (kind, end) == (3, bytes(1024))
    assert [kind for kind, _, _, _ in blocks if kind] == [1, 2]
    hashes = [hashlib.sha256(tar).digest() for _, _, _, tar in blocks]
    assert [data[at + 25 : at + 57] for _, at, _, _ in blocks] == hashes
    assert hashlib.sha256(b"".join(hashes)).hexdigest()[:32] == info.digest
    whole = b"".join(tar for _, _, _, tar in blocks)
    header = whole[:512]
    assert header[:6] == b"large\0" and header[156:157] == b"0" and header[257:265] == b"ustar\x0000"
    assert header[100:108] == b"0000644\0" and int(header[124:135], 8) == len(LARGE) and header[136:148] == b"0" * 11 + b"\0"
    assert int(header[148:154], 8) == sum(header) - sum(header[148:156]) + 8 * 32 and header[154:156] == b"\0 "
    assert whole[512 : 512 + len(LARGE)] == LARGE


def test_the_index(info: PackageInfo, home: Path) -> None:
    [path] = (home / "packed").glob("*.index")
    data = path.read_bytes()
    assert data[:8] == b"FFPACK01" and data[8:24].hex() == info.digest
    package = path.with_name(f"{path.stem}-{data[24:32].decode()}.tar.gz").stat()
    assert data[32:72].rstrip(b"\0").decode().startswith("isal ")
    assert (number(data, 72, 8), number(data, 80, 8)) == (info.files, info.size)
    assert [number(data, at, 8) for at in (88, 96, 104)] == [package.st_size, package.st_mtime_ns, package.st_ino]
    states, blocks, records, names = (number(data, at, 8) for at in (112, 120, 128, 136))
    tables = 152 + states + 72 * blocks
    assert len(data) == tables + records + names and records == 48 * states
    assert number(data, 144, 4) == zlib.crc32(data[tables:])
    assert number(data, 148, 4) == zlib.crc32(data[:148] + data[152:tables])

    found = [data[at : at + 72] for at in range(152 + states, tables, 72)]
    real = [block for block in blocks_of(Path(info.path).read_bytes()) if block[0] != 3]
    assert [(number(block, 24, 8), number(block, 32, 8), block[40:]) for block in found] == [
        (at, length, hashlib.sha256(tar).digest()) for _, at, length, tar in real
    ]
    assert [int.from_bytes(block[8:12], "little", signed=True) for block in found][:3] == [0, 1, -1]
    assert sum(number(block, 4, 4) for block in found) == states + 1  # the large file is in two of them

    members = {}
    for at in range(tables, tables + records, 48):
        record = data[at : at + 48]
        begin, length, target = (number(record, at, 4) for at in (32, 36, 40))
        text = data[tables + records + begin :]
        assert text[length] == 0 and record[46:] == bytes(2)
        members[text[:length]] = chr(record[44]), record[45], number(record, 0, 8), text[length + 1 :][:target]
    assert members == {
        b"large": ("0", 0, len(LARGE), b""),
        b"pyproject.toml": ("0", 0, 0, b""),
        b"sub": ("5", 0, 0, b""),
        b"sub/link": ("2", 0, 0, b"run.sh"),
        b"sub/run.sh": ("0", archive.EXECUTABLE, 10, b""),
    }


def test_the_manifest(info: PackageInfo, home: Path) -> None:
    tree = Path(unpacking.ensure_unpacked(info.path, info.digest, str(home)))
    os.close(unpacking._held.pop(str(tree)))
    data = Path(f"{tree}.manifest").read_bytes()
    runs = number(data, 12, 4)
    assert data[:8] == b"FFTREE01"
    assert number(data, 8, 4) == zlib.crc32(data[16:], runs)
    hashes = [hashlib.sha256(tar).digest() for _, _, _, tar in blocks_of(Path(info.path).read_bytes())[:-1]]
    found = [data[at : at + 32] for at in range(16, 16 + 36 * runs, 36)]
    assert found == [hashlib.sha256(hashes[0] + hashes[1]).digest(), *hashes[2:]]
    lengths = [number(data, at + 32, 4) for at in range(16, 16 + 36 * runs, 36)]
    at = 16 + 36 * runs
    assert sum(lengths) == len(data) - at

    entries = {}
    while at < len(data):
        length = number(data, at + 16, 4)
        entries[data[at + 24 : at + 24 + length].decode()] = chr(data[at + 20]), number(data, at, 8), number(data, at + 8, 8)
        assert data[at + 21 : at + 24] == bytes(3)
        at += 24 + length
    times = {name: (tree / name).stat().st_mtime_ns for name in ("large", "pyproject.toml", "sub/run.sh")}
    link = entries.pop("sub/link")
    assert link[:2] == ("2", len("run.sh")) and link[2] < 2**32
    assert entries == {
        "large": ("0", len(LARGE), times["large"]),
        "pyproject.toml": ("0", 0, times["pyproject.toml"]),
        "sub": ("5", 0, 0),
        "sub/run.sh": ("0", 10, times["sub/run.sh"]),
    }
