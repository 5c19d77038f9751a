"""The walk on several threads: it finds what one thread finds (kernels/archive/walk.pxi)."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from flame_fast.kernels import archive
from gates import PATIENCE_S, passes_in_child, wait_until

from flame_fast.package.gitignore import IgnoreRules

RULES = [b"left-out", b"*.tmp", b"/part3/*/x*", b"!keep.tmp"]
NEVER = "never"
MOST_FILES = 100_000

ResolveLink = Callable[[bytes, bytes], bytes | None]


def leave_out(path: bytes, target: bytes) -> None:
    """Take a link that may lead out for one that does."""


def walk_of(tree: Path, threads: int, resolve_link: ResolveLink = leave_out, most_files: int = MOST_FILES) -> archive.Walk:
    """Return a finished walk."""
    rules = IgnoreRules([("", rule) for rule in RULES])
    found = os.stat(tree / NEVER) if (tree / NEVER).exists() else os.stat("/")
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        never = [(found.st_dev, found.st_ino)]
        walk = archive.Walk(root, rules.matcher, never, most_files, b"generated", resolve_link, True, threads)
        walk.run()
    finally:
        os.close(root)
    return walk


def found_by(walk: archive.Walk) -> tuple[bytes, bytes, list[tuple[int, int, bytes]], bool]:
    return bytes(walk.members.records), bytes(walk.members.names), walk.noted(), walk.generated


def make_tree(tree: Path) -> None:
    """Wide, deep and uneven, with something of every kind that a walk tells apart."""
    random = Random(7)
    made = [tree]
    for number in range(400):
        parent = tree if number % 3 == 0 else random.choice(made)
        path = parent / random.choice((f"part{number}", f"ä{number}", f"x{number}"))
        path.mkdir()
        made.append(path)
        for name in random.sample(("a.py", "b-c", "b", "b.tmp", "keep.tmp", "key.pem", ".env", "module.pyc", "x"), 4):
            (path / name).write_bytes(random.randbytes(random.randrange(50)))
        for name, target in (("in", "a.py"), ("out", "/"), ("climbs", "../../.."), ("loop", "loop")):
            if random.random() < 0.2:
                (path / name).symlink_to(target)
    for path in random.sample(made[1:], 40):
        (path / "left-out" / "sub").mkdir(parents=True)
        (path / "env").mkdir()
        (path / "env" / "pyvenv.cfg").touch()
    os.mkfifo(made[-1] / "fifo")
    (tree / NEVER).mkdir()
    (tree / NEVER / "a.py").touch()


def make_directories(tree: Path, count: int) -> None:
    """So many, with a link that leads out in each."""
    for number in range(count):
        (tree / f"{number:02}").mkdir()
        (tree / f"{number:02}" / "link").symlink_to("/")


def threads_here() -> set[str]:
    return set(os.listdir("/proc/self/task"))


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = threads_here()
    yield
    wait_until(lambda: threads_here() <= before)  # one that was joined is there for a moment more


def test_any_number_of_threads_finds_the_same(tmp_path: Path) -> None:
    make_tree(tmp_path)
    alone = found_by(walk_of(tmp_path, 1))
    assert {note for note, _, _ in alone[2]} == {
        archive.NOTE_RULE,
        archive.NOTE_SECRET,
        archive.NOTE_SPECIAL,
        archive.NOTE_OUTSIDE,
        archive.NOTE_NEVER,
        archive.NOTE_ENVIRONMENT,
    }
    for threads in (0, 2, 3, 4, 64):
        for _ in range(5):
            assert found_by(walk_of(tmp_path, threads)) == alone


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30])
def test_so_do_they_in_a_small_tree(tmp_path: Path, count: int) -> None:
    make_directories(tmp_path, count)
    alone = walk_of(tmp_path, 1)
    assert len(alone.members) == count + 1  # the project file
    for _ in range(20):
        assert found_by(walk_of(tmp_path, 4)) == found_by(alone)


def test_directories_are_read_on_several_threads_at_once(tmp_path: Path) -> None:
    make_directories(tmp_path, 40)
    together = threading.Barrier(4, timeout=PATIENCE_S)
    readers: set[int] = set()

    def resolve(path: bytes, target: bytes) -> None:
        readers.add(threading.get_ident())
        together.wait()

    walk = walk_of(tmp_path, 4, resolve)
    assert len(readers) == 4
    assert len(walk.noted()) == 40


def test_one_thread_reads_what_it_would_take_longer_to_share(tmp_path: Path) -> None:
    make_directories(tmp_path, 7)
    readers: list[int] = []
    walk_of(tmp_path, 4, lambda *_: readers.append(threading.get_ident()))
    assert readers == [threading.get_ident()] * 7


@pytest.mark.parametrize("threads", [1, 4])
def test_what_one_of_them_raises_ends_the_walk(tmp_path: Path, threads: int) -> None:
    make_directories(tmp_path, 60)
    asked = []

    def resolve(path: bytes, target: bytes) -> None:
        asked.append(path)
        raise LookupError(path)

    with pytest.raises(LookupError, match="link"):
        walk_of(tmp_path, threads, resolve)
    assert len(asked) <= threads


@pytest.mark.parametrize("threads", [1, 4])
def test_without_descriptors_the_walk_fails(tmp_path: Path, threads: int) -> None:
    make_directories(tmp_path, 60)

    def take_the_descriptors(path: bytes, target: bytes) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))

    def walk_into_it() -> None:
        with pytest.raises(OSError, match="Too many open files"):
            walk_of(tmp_path, threads, take_the_descriptors)

    assert passes_in_child(walk_into_it)


def test_where_no_thread_can_be_had_one_does_all(tmp_path: Path) -> None:
    make_directories(tmp_path, 60)
    alone = found_by(walk_of(tmp_path, 1))

    def walk_without_threads() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), hard))  # too little for a thread's stack
        end = threading.Event()
        with pytest.raises(RuntimeError):
            for _ in range(1000):  # those that have ended left their stacks
                threading.Thread(target=end.wait, daemon=True).start()
        assert found_by(walk_of(tmp_path, 4)) == alone
        end.set()

    assert passes_in_child(walk_without_threads)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("where", ["in one directory", "together"])
def test_more_files_than_allowed_end_the_walk(tmp_path: Path, threads: int, where: str) -> None:
    for number in range(40):
        path = tmp_path / ("all" if where == "in one directory" else f"{number:02}")
        path.mkdir(exist_ok=True)
        (path / f"{number}.py").touch()
    assert not walk_of(tmp_path, threads, most_files=40).too_many
    walk = walk_of(tmp_path, threads, most_files=39)
    assert walk.too_many
    assert 39 <= walk.members.totals()[0] <= 41  # with the project file, which does not count


def test_walks_may_be_taken_at_once(tmp_path: Path) -> None:
    make_tree(tmp_path)
    alone = found_by(walk_of(tmp_path, 1))
    found: list[object] = []
    walkers = [threading.Thread(target=lambda: found.append(found_by(walk_of(tmp_path, 4)))) for _ in range(4)]
    for walker in walkers:
        walker.start()
    for walker in walkers:
        walker.join(PATIENCE_S)
    assert found == [alone] * 4
