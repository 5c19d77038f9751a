"""What every benchmark measures with: time, processor time, memory, busy cores, and how a figure is printed.

Nothing here knows a contender. Everything about processes is read from /proc, so that no contender's own word is taken.
"""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

HARNESS = str(Path(__file__).parent)

#: Rounds of an interleaved measurement.
ROUNDS = 7

#: Quiet before each measurement: a process that spins for a while after its last call sleeps when the next one begins.
SETTLE_S = 0.05


def timed(function, *args):
    """Seconds."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def timed_with_cpu(function, *args):
    """(seconds, processor seconds of this process and all of its descendants)."""
    pids = tree(os.getpid())
    used = cpu_seconds(pids)
    seconds = timed(function, *args)
    return seconds, cpu_seconds(pids) - used


def interleaved(measures, rounds=ROUNDS):
    """Return the values of each measure by name. The order turns with each round: none always follows the same one."""
    names = list(measures)
    values = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(SETTLE_S)
            values[name].append(measures[name]())
    return values


def ratios(upper, lower):
    """Pair by pair."""
    return [a / b for a, b in zip(upper, lower, strict=True)]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def spread(values, unit="", digits=1, scale=1):
    """Return the median and, in brackets, the lowest and the highest."""
    middle, low, high = (f"{value * scale:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle}{unit} ({low} to {high})"


@contextmanager
def busy_cores():
    """Every core kept busy by a process that ends with this one, whatever happens."""
    program = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(len(os.sched_getaffinity(0)))]
    try:
        time.sleep(0.2)
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def in_fresh_process(function, *args):
    """Run a module-level function in a driver of its own: this driver's heap and threads are not in its figures."""
    program = (
        f"import pickle, sys; sys.path.insert(0, {HARNESS!r})\n"
        "function, args = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(pickle.dumps(function(*args)))"
    )
    request = pickle.dumps((function, args))
    return pickle.loads(
        subprocess.run([sys.executable, "-c", program], input=request, stdout=subprocess.PIPE, check=True).stdout
    )


# ---- processes -------------------------------------------------------------------------------------------------------


def children_of():
    """Every process's children by its id."""
    children = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text()
            except OSError:  # it has ended meanwhile
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    return children


def tree(root):
    """Return a process and all of its descendants."""
    children, found = children_of(), [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def workers_of(root):
    """Descendants that have no children themselves, without the standard library's resource tracker."""
    children = children_of()
    return [pid for pid in tree(root)[1:] if pid not in children and b"resource_tracker" not in _command_of(pid)]


def _command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def foreign_seconds():
    """Processor seconds so far that neither this process nor any it started has used, other guests of the host included."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    machine = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return machine - cpu_seconds(tree(os.getpid())) - ended.ru_utime - ended.ru_stime


def cpu_seconds(pids):
    """Processor seconds used so far, to the nanosecond: the ticks of /proc/PID/stat are 10 ms."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


# ---- memory, in bytes ------------------------------------------------------------------------------------------------


def private_bytes(pids):
    """Return the bytes that would be free if these processes ended."""
    return sum(sizes["Private_Clean"] + sizes["Private_Dirty"] for sizes in map(_rollup, pids))


def shared_bytes(pids):
    """Return the bytes that these processes share, counted once."""
    return sum(map(_rollup_field("Pss"), pids)) - private_bytes(pids)


def resident_bytes(pid="self"):
    """(anonymous, shared memory) of a process."""
    sizes = _sizes(f"/proc/{pid}/status")
    return sizes["RssAnon"], sizes["RssShmem"]


def anonymous_bytes(pid="self"):
    """Return a process's private bytes: heap, and its copies of shared pages. Exact, page by page."""
    return _rollup(pid)["Anonymous"]


def _rollup(pid):
    return _sizes(f"/proc/{pid}/smaps_rollup")


def _rollup_field(name):
    return lambda pid: _rollup(pid)[name]


def _sizes(path):
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
