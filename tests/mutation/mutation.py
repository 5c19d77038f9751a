"""Tests the native tests: builds the runtime with every mutant in it and looks which of them no test notices.

    python tests/mutation/mutation.py                                    # all of the core
    python tests/mutation/mutation.py --file run_queue.pxd --function queue_claim
    python tests/mutation/mutation.py --changed-since origin/main --strict   # what stands on changed lines
    python tests/mutation/mutation.py --sample 100                       # so many, chosen by the commit's number
    python tests/mutation/mutation.py --again survived --limit 60    # those that survived, with all tests that reach them
    python tests/mutation/mutation.py --list --report tests/mutation/MUTANTS.md # what was found, function by function

One build, one process: the tests are collected once, and each mutant is a forked child that sets the switch and runs the
tests that reach it, the most likely ones first, until one fails. What is found is kept in build/mutation/results.json, by
the text of the mutant's line, so that a second run goes on. Mutants that no test can tell from the runtime stand, with the
reason, in `mutants_alike.txt`. One core is enough. Needs Cython in the environment, and gcc.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import mutants
import pytest
from mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "mutation"
ALIKE = ROOT / "tests" / "mutation" / "mutants_alike.txt"
REPORT = ROOT / "tests" / "mutation" / "MUTANTS.md"
TESTS = [
    "native",
    "segment",
    "table",
    "allocator",
    "checks_wakeup",
    "checks_deadlock",
    "checks_dependencies",
    "checks_groups",
    "checks_extents",
    "checks_references",
    "checks_lock",
    "checks_crowd",
    "checks_services",
    "checks_recovery",
    "waits",
    "serving_order",
    "serving_between",
    "serving_ahead",
    "serving_tasks",
    "serving_maps",
    "serving_inside",
    "serving_blocked",
    "serving_many",
    "closing",
    "left_behind_queues",
    "left_behind_sleepers",
    "left_behind_dependencies",
    "left_behind_slots",
    "left_behind_ends",
    "left_behind_memory",
    "left_behind_lock",
    "left_behind_services",
    "left_behind_processes",
    "between",
    "between_slots",
    "between_workers",
    "between_calls",
    "steps",
    "exactly_once",
    "supervisor",
    "wraps",
]
#: As setup.py has them, but for the signatures in docstrings.
DIRECTIVES = ("boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False")
#: Seconds that a test may take in a mutant: so many times what it takes in the runtime, and at least so much.
SLOWER, LEAST_S = 6, 2.0
#: And at most so much, when it is measured.
LONGEST_S = 60.0
#: A test that waits for something waits so long.
PATIENCE_S = 3.0
#: Test files, and tests, whose processes race: what they find must be found twice.
UNSTEADY = {"test_exactly_once", "test_races", "test_a_crowd_on_one_processor_loses_nothing"}
#: Rounds and examples of the tests that have many.
SHORTER = {"test_exactly_once": {"ROUNDS": 400, "KILLS": 5}, "test_wraps": {"STORM_S": 0}}
#: Those that use a slot millions of times are left out, by their names.
TOO_LONG = "not 8388608 and not full_of_old_entries"
FEWER = {"test_table": 30, "test_allocator": 8}
KILLED, SURVIVED, UNREACHED, ALIKE_ONE, NOT_RUN = "killed", "survived", "not reached", "alike", "not run"
#: How a mutant was killed: perhaps the machine was slow just then.
TOO_LONG_FOR_IT = "takes too long"
MOST_MUTANTS = 1 << 16
REPORT_HEAD = """\
# What notices a change of the core

`mutation.py` takes out or turns one check, atomic, call or bound at a time, and looks which native test fails then.
Killed: the tests that notice it, and the seconds of the slowest, from the start of the first test to that failure.
Alike: no test can tell it from the runtime; `mutants_alike.txt` has the reason. Left: no test notices it.
Made by `python tests/mutation/mutation.py --list --report tests/mutation/MUTANTS.md`.
"""
#: Mutants after which what was found is written down.
KEPT_EVERY = 20


# ---- the build ------------------------------------------------------------------------------------------------------


class Build:
    """A copy of the package whose runtime has all mutants in it."""

    def __init__(self):
        self.target = BUILT / "package"
        self.kernels = BUILT / "kernels"
        self.mutants: dict[int, Mutant] = {}
        self.places: dict[tuple[str, int], int] = {}  # (file, line) as written: the mutant that stands there

    def make(self):
        """Make it, unless the one that is there is of these sources."""
        if self.is_current():
            return
        for refused in self.attempts():
            self.write(refused)
            if not (errors := self.translate()):
                break
            refused.update(errors)
        self.compile("runtime", "-DFLAME_FAST_DEBUG=1", "-DFF_LAYOUT=1", "-I", numpy_include())
        self.translate("archive")
        self.compile("archive", "-I", str(self.kernels / "archive"))
        self.keep()

    def attempts(self):
        """Yield what to leave out: what Cython refuses, and what it then refuses as well."""
        refused: set[tuple] = set()
        for _ in range(10):
            yield refused
        sys.exit("the mutants do not compile")

    def state(self):
        sources = [
            *sorted((ROOT / "kernels").rglob("*.p[xy]*")),
            *sorted((ROOT / "kernels").rglob("*.h")),
            Path(mutants.__file__),
        ]
        return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()

    def is_current(self):
        path = BUILT / "mutants.json"
        if not path.exists() or (made := json.loads(path.read_text()))["state"] != self.state():
            return False
        self.mutants = {number: Mutant(*fields) for number, fields in enumerate(made["mutants"], 1)}
        self.copy_python()
        return True

    def keep(self):
        made = {"state": self.state(), "mutants": list(self.mutants.values())}
        (BUILT / "mutants.json").write_text(json.dumps(made))

    def write(self, refused):
        """Copy the package, and write its native sources anew."""
        shutil.rmtree(BUILT / "package", ignore_errors=True)
        shutil.rmtree(self.kernels, ignore_errors=True)
        shutil.copytree(ROOT / "kernels", self.kernels, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
        self.copy_python()
        self.mutants, self.places = {}, {}
        runtime = self.kernels / "runtime"
        for name in mutants.CORE:
            path = runtime / name
            written = mutants.transformed(path.name, path.read_text(), len(self.mutants) + 1, refused)
            path.write_text(self.with_declarations(name, written.text))
            self.mutants.update(written.mutants)
            self.places.update({(path.name, line): number for line, number in written.lines.items()})
        assert len(self.mutants) < MOST_MUTANTS
        (runtime / "core" / "mutation.h").write_text(mutants.HEADER)
        (runtime / "core" / "mutation.pxd").write_text(mutants.DECLARATIONS)
        unit = runtime / "_native.pyx"
        head, begin, rest = unit.read_text().partition("cimport cython\n")
        unit.write_text(head + begin + mutants.SWITCH + rest)

    def with_declarations(self, name, text):
        """In place of the first line, a comment, so that the others stay where they are."""
        first, _, rest = text.partition("\n")
        assert first.startswith("#"), f"{name} begins with no comment"
        return f"from {'.' if name.startswith('core/') else '.core.'}mutation cimport *\n{rest}"

    def copy_python(self):
        for directory in ("flame_fast", "tests"):
            to = self.target / directory
            shutil.copytree(ROOT / directory, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (ROOT / "kernels").rglob("*.py"):
            to = self.target / "flame_fast" / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)

    def translate(self, name="runtime"):
        """Keys of the mutants that Cython refuses."""
        package = BUILT / "cython" / "flame_fast"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.pxd").touch()
        if not (package / "kernels").is_symlink():
            (package / "kernels").symlink_to(self.kernels)
        command = [
            sys.executable,
            "-m",
            "cython",
            "-3",
            "-I",
            package.parent,
            "--module-name",
            f"flame_fast.kernels.{name}._native",
        ]
        for directive in DIRECTIVES:
            command += ["-X", directive]
        done = subprocess.run(
            [*command, f"{name}/_native.pyx"], cwd=self.kernels, capture_output=True, text=True, check=False
        )
        places = re.findall(r"^(?:warning: )?(?:\S*/)?(\w+\.p\w+):(\d+):\d+: (.*)", done.stdout + done.stderr, re.M)
        errors = [(file, int(line)) for file, line, _ in places if (file, int(line)) in self.places]
        if done.returncode and not errors:
            sys.exit(done.stdout + done.stderr)
        return {self.mutants[self.places[place]].key for place in errors} if done.returncode else set()

    def compile(self, name, *options):
        module = self.target / "flame_fast" / "kernels" / name / ("_native" + sysconfig.get_config_var("EXT_SUFFIX"))
        flags = [
            "-shared",
            "-fPIC",
            "-pthread",
            "-std=gnu11",
            "-O1",
            "-g1",
            "-w",
            "-I",
            sysconfig.get_path("include"),
            "-Iruntime/core",
        ]
        subprocess.run(["gcc", *flags, *options, f"{name}/_native.c", "-o", module], cwd=self.kernels, check=True)


def numpy_include():
    import numpy

    return numpy.get_include()


# ---- what cannot be told apart --------------------------------------------------------------------------------------


def read_alike(path=ALIKE):
    """Return key -> reason.

    An entry: `file function`, the line, what becomes of it (`*`: whatever), the reason, each on a line.
    """
    found = {}
    for entry in path.read_text().split("\n\n") if path.exists() else ():
        lines = [line.strip() for line in entry.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            (file, function), before, after, reason = lines[0].split(), lines[1], lines[2], " ".join(lines[3:])
            found[file, function, before, after] = reason
    return found


def stale(alike, made):
    """Entries that are about none of the mutants: their lines are others by now."""
    known = {mutant.key for mutant in made.values()}
    known |= {(*mutant.key[:3], "*") for mutant in made.values()}
    return [key for key in alike if key not in known]


def reason_of(alike, mutant):
    return alike.get(mutant.key) or alike.get((*mutant.key[:3], "*"))


# ---- one test run ---------------------------------------------------------------------------------------------------


class Test:
    def __init__(self, number, item):
        self.number = number
        self.item = item
        self.name = item.nodeid.rpartition("/")[2]
        self.is_unsteady = item.path.stem in UNSTEADY or item.originalname in UNSTEADY
        self.seconds = 0.0
        self.reaches: set[int] = set()

    @property
    def price(self):
        """For the order in which they are tried."""
        return self.seconds * (5 if self.is_unsteady else 1)

    @property
    def limit(self):
        return max(LEAST_S, SLOWER * self.seconds)


class Bench:
    """The tests, collected, and children of this process that run them."""

    BEGUN, PASSED, FAILED = range(3)
    NOTE = struct.Struct("<ib")

    def __init__(self, items, passed_path):
        from flame_fast.kernels.runtime import _native

        self.runtime = _native
        self.tests = [Test(number, item) for number, item in enumerate(items)]
        self.writing = self.running = -1  # in a child
        self.tests_that_pass: list[Test] = []
        with open(passed_path, "r+b") as file:
            self.passed = mmap.mmap(file.fileno(), MOST_MUTANTS)

    def pytest_runtest_logreport(self, report):
        """In the child: the first failure is its end."""
        if report.failed:
            print(report.longreprtext, flush=True)
            os.write(self.writing, self.NOTE.pack(self.running, self.FAILED))
            os._exit(0)

    def run(self, number, tests):
        """Run tests in a child that is this mutant, until one fails; (the test that failed, how) or (None, "")."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self.live(number, tests, writing)
        os.close(writing)
        try:
            return self.follow(pid, tests, reading)
        finally:
            os.close(reading)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            end_strays(number)

    def live(self, number, tests, writing):
        code = 1
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            said = os.open(BUILT / "said" if number == 0 else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for fd in (1, 2):
                os.dup2(said, fd)
            os.environ["FLAME_FAST_MUTANT"] = str(number)
            self.runtime.mutate(number)
            self.writing = writing
            for test in tests:
                self.running = test.number
                os.write(writing, self.NOTE.pack(test.number, self.BEGUN))
                test.item.config.hook.pytest_runtest_protocol(item=test.item, nextitem=None)
                os.write(writing, self.NOTE.pack(test.number, self.PASSED))
            code = 0
        finally:
            os._exit(code)

    def follow(self, pid, tests, reading):
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        look = select.poll()
        look.register(reading, select.POLLIN)
        last, deadline = None, time.monotonic() + LEAST_S
        passed = set()
        while True:
            if not look.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return last, TOO_LONG_FOR_IT
            note = os.read(reading, self.NOTE.size)
            if len(note) < self.NOTE.size:
                return (None, "") if len(passed) == len(tests) else (last, "crashes")
            number, what = self.NOTE.unpack(note)
            last = self.tests[number]
            deadline = time.monotonic() + last.limit
            if what == self.FAILED:
                return last, "fails"
            if what == self.PASSED:
                passed.add(number)

    def measure(self, build_state):
        """How long each test takes in the runtime as it is, and which mutants it reaches; those that fail are left out."""
        path = BUILT / "reaches.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        measured = {}
        for test in self.tests:
            state = hashlib.sha256(build_state.encode() + Path(test.item.path).read_bytes()).hexdigest()
            if known.get(test.name, [""])[0] != state or known[test.name][3]:
                known[test.name] = [state, *self.measure_one(test)]
            measured[test.name] = known[test.name]
            _, test.seconds, reaches, wrong = measured[test.name]
            test.reaches = set(reaches)
            if wrong:
                print(f"left out, since it {wrong} without any mutant: {test.name}, see {BUILT}/said", flush=True)
            else:
                self.tests_that_pass.append(test)
        path.write_text(json.dumps(known | measured))
        del os.environ["FLAME_FAST_PASSED"]

    def measure_one(self, test):
        self.passed[:] = bytes(MOST_MUTANTS)
        test.seconds = LONGEST_S / SLOWER
        begin = time.monotonic()
        _, wrong = self.run(0, [test])
        if wrong:
            begin = time.monotonic()
            _, wrong = self.run(0, [test])
        return time.monotonic() - begin, [number for number in range(MOST_MUTANTS) if self.passed[number]], wrong


def end_strays(number):
    """End the zygotes that this mutant's tests have started, and their children.

    A runner's zygote has a session of its own.
    """
    mark = f"FLAME_FAST_MUTANT={number}".encode()
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    os.kill(int(path.name), signal.SIGKILL)


# ---- all mutants ----------------------------------------------------------------------------------------------------


def turns(tests):
    """Map each test to which of its file's it is."""
    counts: collections.Counter = collections.Counter()
    found = {}
    for test in tests:
        found[test] = counts[test.item.path]
        counts[test.item.path] += 1
    return found


class Hunt:
    """Which tests kill which mutants."""

    def __init__(self, bench, made, chosen, options, results):
        self.bench = bench
        self.made = made
        self.chosen = chosen
        self.options = options
        self.results = results
        self.focuses: dict[tuple[str, str], float] = {}
        self.known = read_killers(REPORT)
        self.kills = collections.defaultdict(collections.Counter)  # (file, function) -> test's name -> how many
        for key, found in results.items():
            if found["status"] == KILLED:
                self.kills[key[:2]][found["by"]] += 1

    def tests_for(self, number, mutant, tried):
        """Choose as many of the tests that reach a mutant as the limit lets.

        Those that killed its neighbours come first, then from each test file in turn quick ones that are about the mutant's
        file more than about others.
        """
        kills, known = self.kills[mutant.key[:2]], self.known[mutant.key[:2]]
        seconds, found = 0.0, []
        tests = [test for test in self.bench.tests_that_pass if number in test.reaches and test.name not in tried]
        cost = {test: (test.price + 0.05) / self.focus(test, mutant.file) for test in tests}
        turn = turns(sorted(tests, key=cost.__getitem__))
        worth = {test: (kills[test.name] + known[short(test.name)]) / (test.price + 0.05) for test in tests}
        for test in sorted(tests, key=lambda test: (-worth[test], turn[test], cost[test])):
            if not found or seconds + test.seconds <= self.options.limit:
                found.append(test)
                seconds += test.seconds
        return found

    def focus(self, test, file):
        """Which part of what a test reaches is of this file."""
        key = test.name, file
        if key not in self.focuses:
            self.focuses[key] = sum(self.made[number].file == file for number in test.reaches) / len(test.reaches)
        return self.focuses[key]

    def hunt(self):
        begin = time.monotonic()
        for count, (number, mutant) in enumerate(self.chosen.items(), 1):
            self.results[mutant.key] = self.one(number, mutant)
            if count % KEPT_EVERY == 0:
                print(f"{count} of {len(self.chosen)} after {time.monotonic() - begin:.0f} s", flush=True)
                self.keep()
        self.keep()

    def one(self, number, mutant):
        known = self.results.get(mutant.key, {})
        if known.get("status") == ALIKE_ONE:
            return known
        if known.get("status") == KILLED:
            known = {}
        tried = [] if self.options.fresh else known.get("tried", [])
        tests = self.tests_for(number, mutant, tried)
        if not tests:
            return {"status": SURVIVED if tried else UNREACHED, "by": "", "seconds": 0.0, "tried": tried}
        begin = time.monotonic()
        killer, how = self.bench.run(number, tests)
        is_doubtful = killer is not None and (killer.is_unsteady or how == TOO_LONG_FOR_IT)
        if is_doubtful and self.bench.run(number, [killer])[0] is None:
            killer, how = self.bench.run(number, [test for test in tests if test is not killer])
        seconds = round(time.monotonic() - begin, 2)
        if killer is None and not how:
            return {"status": SURVIVED, "by": "", "seconds": seconds, "tried": tried + [test.name for test in tests]}
        name = killer.name if killer else "?"
        self.kills[mutant.key[:2]][name] += 1
        return {"status": KILLED, "by": name, "how": how, "seconds": seconds, "tried": []}

    def keep(self):
        found = [[*key, result] for key, result in self.results.items()]
        (BUILT / "results.json").write_text(json.dumps(found, indent=0))


def read_results():
    path = BUILT / "results.json"
    return {tuple(key): result for *key, result in json.loads(path.read_text())} if path.exists() else {}


def tell_alike(results, made):
    """Mark what is listed as alike, whatever was found before; take what is listed no more as not run."""
    alike = read_alike()
    for mutant in made.values():
        if reason := reason_of(alike, mutant):
            results[mutant.key] = {"status": ALIKE_ONE, "by": reason, "seconds": 0.0, "tried": []}
        elif status_of(results, mutant) == ALIKE_ONE:
            del results[mutant.key]


def status_of(results, mutant):
    return results.get(mutant.key, {"status": NOT_RUN})["status"]


def table(chosen, results, statuses):
    """Print the mutants of some statuses, then how many there are of each."""
    for mutant in chosen.values():
        found = results.get(mutant.key)
        if found and found["status"] in statuses:
            print(
                f"{found['status']}: {mutant.file}:{mutant.line} {mutant.function}",
                mutant.before,
                mutant.after,
                sep="\n    ",
            )
            if found["by"]:
                print(f"    {found['by']} {found.get('how', '')} {found['seconds']} s")
    counts: collections.Counter = collections.Counter()
    for mutant in chosen.values():
        counts[mutant.file, status_of(results, mutant)] += 1
    statuses = sorted({status for _, status in counts})
    print(" ".join(f"{text:>12}" for text in ["", "mutants", *statuses]))
    for file in [*dict.fromkeys(file for file, _ in counts), "all"]:
        row = [
            sum(number for (of, at), number in counts.items() if file in (of, "all") and at == status) for status in statuses
        ]
        print(" ".join(f"{text:>12}" for text in [file.partition(".")[0], sum(row), *row]))


def report(chosen, results):
    """Return what was found, as Markdown.

    For each function: its mutants, the tests that kill them, and the time of the slowest.
    """
    files = group(chosen.values())
    lines = [REPORT_HEAD, *head_of("file")]
    for name, functions in [*files.items(), ("all", {"": list(chosen.values())})]:
        made = [mutant for of_one in functions.values() for mutant in of_one]
        lines.append(f"| {name} | {counts_of(made, results)} |")
    for name, functions in files.items():
        lines += [f"\n## {name}\n", *head_of("function", "killed by")]
        lines += [
            f"| `{one}` | {counts_of(made, results)} | {killers_of(made, results)} |" for one, made in functions.items()
        ]
    return "\n".join(lines) + "\n"


def head_of(first, *more):
    names = [first, "mutants", "killed", "alike", "left", "slowest", *more]
    return [f"| {' | '.join(names)} |", "|---|" + "--:|" * 5 + "---|" * len(more)]


def group(made):
    """Group mutants: file -> function -> mutants."""
    found: dict[str, dict[str, list[Mutant]]] = {}
    for mutant in made:
        found.setdefault(mutant.file, {}).setdefault(mutant.function, []).append(mutant)
    return found


def counts_of(made, results):
    count = collections.Counter(status_of(results, mutant) for mutant in made)
    seconds = [results[mutant.key]["seconds"] for mutant in made if status_of(results, mutant) == KILLED]
    slowest = f"{max(seconds):.1f} s" if seconds else ""
    left = len(made) - count[KILLED] - count[ALIKE_ONE]
    return f"{len(made)} | {count[KILLED]} | {count[ALIKE_ONE]} | {left} | {slowest}"


def killers_of(made, results):
    names = [results[mutant.key]["by"] for mutant in made if status_of(results, mutant) == KILLED]
    count = collections.Counter(short(name) for name in names)
    return ", ".join(f"{name} {times}" for name, times in count.most_common())


def short(name):
    """Return a test's name as the report has it."""
    return re.sub(r"test_(\w+)\.py::(?:test_)?", r"\1: ", name.partition("[")[0])


def read_killers(path):
    """(file, function) -> how many of its mutants each test has killed, as a report says."""
    found, file = collections.defaultdict(collections.Counter), ""
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("## "):
            file = line[3:]
        elif row := re.match(r"\| `(.+?)` \|.*\| (.*) \|$", line):
            found[file, row[1]].update({name: int(times) for name, times in re.findall(r"(\w+: \w+) (\d+)", row[2])})
    return found


# ---- which mutants --------------------------------------------------------------------------------------------------


def changed_lines(revision):
    """(file, line) of what a revision has not got."""
    found = set()
    diff = ["git", "-C", ROOT, "diff", "-U0", "--no-color", revision, "--", "kernels"]
    file = ""
    for line in subprocess.run(diff, capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("+++ "):
            file = line.rpartition("/")[2]
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first = int(hunk[1])
            found.update((file, number) for number in range(first, first + int(hunk[2] or 1)))
    return found


def choose(made, options, results):
    chosen = dict(made)
    if options.file:
        chosen = {number: mutant for number, mutant in chosen.items() if mutant.file in options.file}
    if options.function:
        chosen = {
            number: mutant for number, mutant in chosen.items() if mutant.function.rpartition(".")[2] in options.function
        }
    if options.changed_since:
        changed = changed_lines(options.changed_since)
        chosen = {number: mutant for number, mutant in chosen.items() if (mutant.file, mutant.line) in changed}
    if options.again:
        chosen = {number: mutant for number, mutant in chosen.items() if status_of(results, mutant) in options.again}
    if options.sample:
        seed = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        order = {number: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest() for number, mutant in chosen.items()}
        chosen = {number: chosen[number] for number in sorted(sorted(chosen, key=order.__getitem__)[: options.sample])}
    return chosen


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--file", action="append", help="mutants of this file only, as run_queue.pxd")
    parser.add_argument("--function", action="append", help="of this function only")
    parser.add_argument("--changed-since", metavar="REVISION", help="on lines that this revision has not got")
    parser.add_argument("--sample", type=int, help="so many of them, other ones for each commit")
    parser.add_argument("--again", action="append", metavar="STATUS", help="only those of this status: survived, 'not run'")
    parser.add_argument("--fresh", action="store_true", help="tests that a mutant has survived before are run once more")
    parser.add_argument(
        "--limit", type=float, default=10.0, help="seconds of tests for one mutant, as long as they take without"
    )
    parser.add_argument("--tests", nargs="+", default=TESTS, help="test files, as native for tests/runtime/test_native.py")
    parser.add_argument("--list", action="store_true", help="runs nothing, prints what was found before")
    parser.add_argument("--report", metavar="PATH", help="writes a table of what was found, function by function")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if one was not killed")
    parser.add_argument("--show", nargs="*", default=[SURVIVED, UNREACHED], help="statuses whose mutants are printed")
    return parser.parse_args()


class Collected:
    """Does the work once pytest has collected the tests."""

    def __init__(self, build, chosen, options, passed_path):
        self.build = build
        self.chosen = chosen
        self.options = options
        self.passed_path = passed_path

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        shorten()
        bench = Bench(session.items, self.passed_path)
        session.config.pluginmanager.register(bench)
        begin = time.monotonic()
        bench.measure(self.build.state())
        print(f"{len(bench.tests_that_pass)} tests, measured in {time.monotonic() - begin:.0f} s", flush=True)
        Hunt(bench, self.build.mutants, self.chosen, self.options, self.options.results).hunt()
        return True


def shorten():
    """Once the tests are collected: one that would go on for long says sooner what it finds."""
    import conftest
    from hypothesis import settings

    conftest.LEAVE_S = 0.5
    for name, values in SHORTER.items():
        for key, value in values.items() if name in sys.modules else ():
            setattr(sys.modules[name], key, value)
    for name, most in FEWER.items():
        if name in sys.modules:
            case = next(value for key, value in vars(sys.modules[name]).items() if key.startswith("Test"))
            case.settings = settings(case.settings, max_examples=most)


def take_build_directory():
    """Until this process ends: a build that changes under a hunt kills its mutants."""
    BUILT.mkdir(parents=True, exist_ok=True)
    lock = os.open(BUILT / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another run of this tool uses {BUILT}")


def main():
    options = arguments()
    take_build_directory()
    options.results = read_results()
    build = Build()
    build.make()
    tell_alike(options.results, build.mutants)
    chosen = choose(build.mutants, options, options.results)
    status = 0
    if not options.list:
        print(f"{len(build.mutants)} mutants, {len(chosen)} chosen", flush=True)
        status = run(build, chosen, options)
    table(chosen, options.results, options.show)
    if options.report:
        (ROOT / options.report).write_text(report(chosen, options.results))
    for key in (forgotten := stale(read_alike(), build.mutants)):
        print("no such mutant any more, see mutants_alike.txt:", *key, sep="\n    ")
    found = {status_of(options.results, mutant) for mutant in chosen.values()}
    sys.exit(status or bool(forgotten) or (options.strict and not found <= {KILLED, ALIKE_ONE}))


def run(build, chosen, options):
    passed = BUILT / "passed"
    passed.write_bytes(bytes(MOST_MUTANTS))
    os.environ["FLAME_FAST_PASSED"] = str(passed)
    tests = build_tests(options)
    os.environ["PYTHONPATH"] = str(BUILT / "package")  # of the zygotes, too
    os.chdir(BUILT / "package")
    tests_at = BUILT / "package" / "tests"
    support = [tests_at / "support", tests_at / "support" / "models", tests_at / "support" / "death"]
    sys.path[:0] = [str(BUILT / "package"), str(tests_at), *map(str, support)]
    import gates
    import scene
    from flame_fast.kernels import runtime
    from hypothesis import Phase, settings

    assert runtime.__file__.startswith(str(BUILT)), runtime.__file__
    gates.PATIENCE_S, scene.DEADLINE_S = PATIENCE_S, 5
    settings.register_profile(
        "mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False
    )
    settings.load_profile("mutation")
    plugins = [f"-p{name}" for name in ("no:randomly", "no:xdist", "no:timeout", "no:cacheprovider", "no:faulthandler")]
    quiet = ["-q", "-s", "--no-header", "-W", "ignore::pytest.PytestUnknownMarkWarning"]
    quiet += ["-c", os.devnull, "--rootdir", ".", "-k", TOO_LONG]
    return pytest.main([*tests, *plugins, *quiet], plugins=[Collected(build, chosen, options, passed)])


def build_tests(options):
    return [path for name in options.tests if (BUILT / "package" / (path := f"tests/runtime/test_{name}.py")).exists()]


if __name__ == "__main__":
    main()
