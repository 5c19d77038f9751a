"""Packaging speed: a directory packed and unpacked by flame_fast, by Python's tarfile, by GNU tar and compressors.

    pytest bench/package/test_packaging.py --benchmark-group-by=group --benchmark-columns=min,median,max,rounds
    pytest bench/package/test_packaging.py -k ratios
    pytest bench/package/test_packaging.py -k large
    pytest bench/package/test_packaging.py -k libraries

Three trees: Python's standard library as it is installed here, 20,000 small files, and one file of 1 GB, which is in none of
the `ratios`. All of them are in the page cache. Packages go to a file; flame_fast is called as a Runner calls it, in a
process that has packed before, but for the row of the whole command. What is unpacked goes to a file system in memory where
there is a large one: on a disk, each next tree waits for the last one's files to be written and removed. The physical limit
of an unchanged tree is measured in the same run: a walk in C.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import median

import packers
import pytest
from measuring import in_fresh_process, interleaved, ratios, spread, timed
from packers import CONTENDERS, LARGE_FILE, MAKERS, OURS, PEERS, SMALL_FILES, STANDARD_LIBRARY, UNPACKERS

ROOT = Path(__file__).parents[2]
RATIOS = (STANDARD_LIBRARY, SMALL_FILES)

COLD, UNCHANGED, CHANGED, COMMAND = (contender.name for contender in OURS)
IGZIP, PIGZ, GZIP, LEVEL_1, LEVEL_9 = (contender.name for contender in PEERS)
FRESH, PREVIOUS, GNU_TAR, PYTHON = UNPACKERS

#: Those that take a second or more, and so fewer rounds.
SLOW = {PIGZ: 2, GZIP: 2, LEVEL_1: 2, LEVEL_9: 1, PYTHON: 2}

MEMORY = "/dev/shm"

# The warning about packages above 100 MB.
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore:the package of:UserWarning")]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packaging")
    targets = Path(tempfile.mkdtemp(prefix="flame_fast-bench-", dir=MEMORY if in_memory() else folder))
    yield packers.Trees(folder, targets)
    shutil.rmtree(targets)
    shutil.rmtree(folder)


def in_memory():
    """Return whether there is a file system in memory to unpack into."""
    return os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 4 << 30


@pytest.fixture(scope="module")
def level_9(trees):
    """Measure tarfile at level 9, once for each tree; return its seconds, and the package's bytes."""

    @cache
    def packed(tree):
        contender = CONTENDERS[LEVEL_9](trees, tree)
        return [contender.seconds() for _ in range(SLOW[LEVEL_9])], contender.out.stat().st_size

    return packed


def started(known, name, trees, tree):
    if lacking := packers.missing(known[name]):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    return known[name](trees, tree)


def installed(known, names, trees, tree):
    """Return contenders by name, without those that cannot run here."""
    return {name: known[name](trees, tree) for name in names if not packers.missing(known[name])}


def rounds_of(name, tree):
    return 1 if tree == LARGE_FILE else SLOW.get(name, 7)


def measured(contenders, tree):
    """Return seconds by name. Contenders with equally many rounds are interleaved, the fast ones first."""
    seconds = {}
    for rounds in sorted({rounds_of(name, tree) for name in contenders}, reverse=True):
        together = {name: one.seconds for name, one in contenders.items() if rounds_of(name, tree) == rounds}
        seconds |= interleaved(together, rounds)
    return seconds


def over(upper, lower):
    """Return ratios, pair by pair, or with the median of the contender that had fewer rounds."""
    if len(upper) < len(lower):
        upper = [median(upper)] * len(lower)
    elif len(lower) < len(upper):
        lower = [median(lower)] * len(upper)
    return ratios(upper, lower)


def megabytes(size):
    return f"{size / 1e6:.1f} MB"


def described(tree):
    return f"{tree.path.name} ({tree.files:,} files, {megabytes(tree.size)})"


# ---- groups --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("tree", MAKERS)
def test_packing(benchmark, trees, tree, name):
    contender = started(CONTENDERS, name, trees, tree)
    benchmark.group = f"packing: {tree}"
    benchmark.pedantic(contender.run, setup=contender.prepare, rounds=rounds_of(name, tree))
    assert names_in(contender.out)


@pytest.mark.parametrize("name", UNPACKERS)
@pytest.mark.parametrize("tree", MAKERS)
def test_unpacking(benchmark, trees, tree, name):
    unpacker = started(UNPACKERS, name, trees, tree)
    benchmark.group = f"unpacking: {tree}"
    benchmark.pedantic(unpacker.run, setup=unpacker.prepare, rounds=rounds_of(name, tree))
    assert_unpacked(unpacker)


def names_in(package):
    """Return the paths of a package's files, without the project file that flame_fast adds."""
    with tarfile.open(package) as tar:
        return {os.path.normpath(member.name) for member in tar if not member.isdir()} - {"pyproject.toml"}


def assert_unpacked(unpacker):
    unpacked = packers.Tree(Path(unpacker.unpacked()))
    assert (unpacked.files, unpacked.size) == (unpacker.info.files, unpacker.info.size)


# ---- promised figures ----------------------------------------------------------------------------------------------------

#: Our time over theirs.
PROMISED = {
    STANDARD_LIBRARY: {IGZIP: "at most 0.9, no more bytes", LEVEL_9: "at most 0.04"},
    SMALL_FILES: {contender.name: "less than 1" for contender in PEERS},
}


def packing_rows(contenders, seconds, sizes, promised):
    rows = []
    for name, values in seconds.items():
        share = f": {spread(over(seconds[COLD], values), '', 3)}" if name != COLD else ""
        rows.append((name, f"{spread(values, ' s', 3)}, {megabytes(sizes[name])}{share}", promised.get(name, "")))
    return rows


@pytest.mark.parametrize("tree", RATIOS)
def test_ratios_cold(trees, level_9, tree, report):
    contenders = installed(CONTENDERS, (COLD, COMMAND, IGZIP, PIGZ, GZIP, LEVEL_1), trees, tree)
    contenders[COLD].seconds()  # which loads what it needs
    seconds = measured(contenders, tree)
    sizes = {name: contender.out.stat().st_size for name, contender in contenders.items()}
    for name, contender in contenders.items():
        assert names_in(contender.out) == names_in(contenders[COLD].out), name
    seconds[LEVEL_9], sizes[LEVEL_9] = level_9(tree)
    rows = packing_rows(contenders, seconds, sizes, PROMISED[tree])
    report(f"packing {described(trees[tree])}: seconds, the package, and our time over theirs", rows)


@pytest.mark.parametrize("tree", RATIOS)
def test_ratios_again(trees, level_9, tree, tmp_path, report):
    walk = packers.native_walk(tmp_path)
    if walk is None:
        pytest.skip("no C compiler")
    unchanged, changed = CONTENDERS[UNCHANGED](trees, tree), CONTENDERS[CHANGED](trees, tree)
    assert walk(unchanged.tree.path) == unchanged.tree.entries
    block = changed.its_block()
    seconds = interleaved(
        {
            "walk": lambda: timed(walk, unchanged.tree.path),
            UNCHANGED: unchanged.seconds,
            CHANGED: changed.seconds,
            "block": lambda: timed(block),
        },
        25,
    )
    assert changed.info.digest != changed.first_info.digest
    beyond = [a - b for a, b in zip(seconds[CHANGED], seconds["block"], strict=True)]
    tarfile_9 = over(level_9(tree)[0], seconds[UNCHANGED])
    rows = [
        ("the walk in C, on one thread", spread(seconds["walk"], " ms", 2, 1e3)),
        (UNCHANGED, spread(seconds[UNCHANGED], " ms", 2, 1e3)),
        ("    over the walk", spread(ratios(seconds[UNCHANGED], seconds["walk"]), "", 2), "at most 1.5"),
        (f"    {LEVEL_9}, over it", spread(tarfile_9, " times", 0), "300 times" if tree == STANDARD_LIBRARY else ""),
        (CHANGED, spread(seconds[CHANGED], " ms", 2, 1e3)),
        ("    that file's block alone: read, hashed, compressed", spread(seconds["block"], " ms", 2, 1e3)),
        ("    without its block, over unchanged", spread(ratios(beyond, seconds[UNCHANGED]), "", 2), "at most 3"),
    ]
    report(f"packing {described(unchanged.tree)} again", rows)


@pytest.mark.parametrize("tree", RATIOS)
def test_ratios_unpacking(trees, tree, report):
    unpackers = installed(UNPACKERS, UNPACKERS, trees, tree)
    seconds = measured(unpackers, tree)
    for unpacker in unpackers.values():
        assert_unpacked(unpacker)
    where = "in memory" if in_memory() else "on the disk"
    report(f"unpacking {described(trees[tree])} {where}: seconds, and how many times ours", unpacking_rows(seconds))


def unpacking_rows(seconds):
    rows = []
    for name, values in seconds.items():
        share = f": {spread(over(values, seconds[FRESH]), ' times', 2)}" if name != FRESH else ""
        rows.append((name, f"{spread(values, ' s', 3)}{share}", "more than 1" if name == GNU_TAR else ""))
    return rows


@pytest.mark.parametrize("tree", RATIOS)
def test_ratios_memory(trees, tree, report):
    report(f"peak memory of a process of its own, {described(trees[tree])}", memory_rows(trees, tree))


def memory_rows(trees, tree):
    folder = trees.new_folder()
    package = folder / "package.tar.gz"
    packed = packers.pack(trees[tree].path, package, folder / "home")
    peaks = {
        "packing": in_fresh_process(packers.peak_of_packing, trees[tree].path, package, folder / "another home"),
        "packing again": in_fresh_process(packers.peak_of_packing, trees[tree].path, package, folder / "another home"),
        "unpacking": in_fresh_process(packers.peak_of_unpacking, package, packed.digest, trees.new_target()),
    }
    return [
        (name, f"{megabytes(peak)}, of which {megabytes(before)} before it began", "at most 64 MB")
        for name, (before, peak) in peaks.items()
    ]


#: Runs a program and writes down how long the packing took when its Runner was entered, with all that it imported.
ENTERING = """\
import os, runpy, sys, time
from flame_fast.application import lifecycle

result, script = sys.argv[1:]
sys.argv = [script]
sys.path[0] = os.path.dirname(os.path.abspath(script))
pack = lifecycle.pack

def timed(*arguments, **settings):
    start = time.perf_counter()
    package = pack(*arguments, **settings)
    seconds = time.perf_counter() - start
    with open(result, "w") as file:
        file.write(repr(seconds))
    return package

lifecycle.pack = timed
runpy.run_path(script, run_name="__main__")
"""


def entering(folder, directory, script, known):
    """Return the seconds in `pack` at a start of the pi example, in a fresh data directory or, if `known`, in a used one."""
    home = folder / "known" if known else Path(tempfile.mkdtemp(dir=folder))
    settings = {"FLAME_FAST_HOME": str(home), "PI_NUM_BATCHES": "1", "PI_SAMPLES_PER_BATCH": "1"}
    command = [sys.executable, "-c", ENTERING, folder / "seconds", script]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=packers.environment() | settings, cwd=directory)
    return float((folder / "seconds").read_text())


def test_ratios_entry(tmp_path, report):
    rows = []
    for where, directory, script in (
        ("its own directory", ROOT / "examples" / "pi", "main.py"),
        ("the clone's root", ROOT, "examples/pi/main.py"),
    ):
        folder = tmp_path / where
        folder.mkdir()
        starts = {"first": partial(entering, folder, directory, script, False)}
        starts["second"] = partial(entering, folder, directory, script, True)
        starts["second"]()
        seconds = interleaved(starts, 5)
        for which, values in seconds.items():
            promised = "" if (which, directory) == ("first", ROOT) else "at most 2 ms"
            rows.append((f"{which} start, in {where}", spread(values, " ms", 2, 1e3), promised))
    report("packing when the Runner of the pi example is entered, in a fresh process", rows)


# ---- the large file ------------------------------------------------------------------------------------------------------


def test_large_file(trees, report):
    tree = LARGE_FILE
    contenders = installed(CONTENDERS, (COLD, UNCHANGED, CHANGED, IGZIP), trees, tree)
    seconds = interleaved({name: contender.seconds for name, contender in contenders.items()}, 3)
    sizes = {name: contender.out.stat().st_size for name, contender in contenders.items()}
    unpackers = installed(UNPACKERS, (FRESH, PREVIOUS, GNU_TAR), trees, tree)
    unpacking = interleaved({name: unpacker.seconds for name, unpacker in unpackers.items()}, 2)
    for unpacker in unpackers.values():
        assert_unpacked(unpacker)
    rows = packing_rows(contenders, seconds, sizes, {})
    rows += [(f"unpacking, {name}", *others) for name, *others in unpacking_rows(unpacking)]
    rows += [(f"peak memory, {name}", *others) for name, *others in memory_rows(trees, tree)]
    report(f"{described(trees[tree])}: seconds, the package, and our time over theirs", rows)


# ---- libraries -----------------------------------------------------------------------------------------------------------

SAMPLE_BYTES = 16 << 20


def libraries():
    """Return functions that deflate a block, by name; None for a library that is not installed."""

    def of(module, make):
        try:
            return make(import_module(module))
        except ImportError:
            return None

    def isal(level, memory="DEFAULT"):
        def make(lib):
            flag, memory_level = lib.COMP_GZIP_NO_HDR, getattr(lib, f"MEM_LEVEL_{memory}")
            return lambda block: lib.compress(block, level, flag, memory_level)

        return of("isal.igzip_lib", make)

    return {
        "isal, level 0": isal(0),
        "isal, level 1": isal(1),
        "isal, level 1, small buffer": isal(1, "SMALL"),
        "isal, level 2": isal(2),
        "isal, level 2, small buffer (ours)": isal(2, "SMALL"),
        "isal, level 3": isal(3),
        "zlib-ng, level 1": of("zlib_ng.zlib_ng", lambda lib: lambda block: lib.compress(block, 1)),
        "zlib-ng, level 2": of("zlib_ng.zlib_ng", lambda lib: lambda block: lib.compress(block, 2)),
        "libdeflate, level 1": of("deflate", lambda lib: lambda block: lib.gzip_compress(block, 1)),
        "zlib, level 1": lambda block: zlib.compress(block, 1),
    }


def sample(path, length):
    """Return blocks of a tar of a directory, spread over all of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(path, arcname="")
    data = buffer.getbuffer()
    step = max(1, len(data) // SAMPLE_BYTES) * length
    return [bytes(data[at : at + length]) for at in range(0, len(data) - length, step)]


def test_libraries(trees, report):
    """Libraries run one after the other on one core, each block on its own, as flame_fast compresses."""
    noise = Random(6).randbytes(SAMPLE_BYTES)
    known = libraries()
    compressors = {name: compress for name, compress in known.items() if compress is not None}
    rows = [(name, "not installed") for name in known if name not in compressors]
    for length in (512 << 10, 1 << 20):
        for what, blocks in (
            (f"the tree's tar in blocks of {length >> 10} KiB", sample(trees[STANDARD_LIBRARY].path, length)),
            (
                f"random bytes in blocks of {length >> 10} KiB",
                [noise[at : at + length] for at in range(0, len(noise), length)],
            ),
        ):
            raw, sizes = sum(map(len, blocks)), {}

            def seconds(name, blocks=blocks, sizes=sizes):
                start = time.perf_counter()
                sizes[name] = sum([len(compressors[name](block)) for block in blocks])
                return time.perf_counter() - start

            rows.append((what, megabytes(raw)))
            for name, values in interleaved({name: partial(seconds, name) for name in compressors}, 3).items():
                rates = spread([raw / value / 1e6 for value in values], " MB/s", 0)
                rows.append((f"    {name}", f"{rates}, {sizes[name]:,} bytes, {sizes[name] / raw:.2%}"))
    report("deflate on one core", rows)
