"""CPUs and memory: what this process may really use, and what a call asks for."""

from __future__ import annotations

import contextlib
import os
import re

from flame_fast.errors import FlameError, FlameErrorCode

#: Share of the memory available now that a runner's values may take.
MEMORY_SHARE = 0.8

#: Bounds of what `Runner(memory=...)` may say: a little room for every process's blocks; the addresses reserved.
LEAST_MEMORY = 16 << 20
MOST_MEMORY = 1 << 39

#: The process table has room for as many again, for instances and for workers beside waiting tasks.
MOST_WORKERS = 1024

SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


class ResourceRequirement:
    """What one call of a service takes.

    Parameters
    ----------
    cpu : int
        CPUs, at least 1: bounds how many calls run at once, and sets the worker's thread limit.
    memory : int
        Bytes; recorded.
    gpu : int
        Devices; recorded.

    Raises
    ------
    ValueError
        Something that is no integer, or out of range.
    """

    __slots__ = ("cpu", "gpu", "memory")

    def __init__(self, cpu: int = 1, memory: int = 0, gpu: int = 0) -> None:
        for name, value, least in (("cpu", cpu, 1), ("memory", memory, 0), ("gpu", gpu, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        self.cpu = cpu
        self.memory = memory
        self.gpu = gpu

    @classmethod
    def from_string(cls, text: str) -> ResourceRequirement:
        """Reads `"cpu=2,mem=1g,gpu=0"`: integers, `mem` (or `memory`) with a binary suffix k, m, g, t, p.

        Raises
        ------
        ValueError
            Says which part is wrong and what is expected.
        """
        if not isinstance(text, str):
            raise ValueError(f"expected text like 'cpu=2,mem=1g', got {text!r}")
        values: dict[str, int] = {}
        for part in text.split(","):
            key, equals, number = (piece.strip().lower() for piece in part.partition("="))
            key = {"mem": "memory"}.get(key, key)
            if not equals or key not in cls.__slots__:
                raise ValueError(f"expected cpu=, mem= or gpu= in {text!r}, got {part.strip()!r}")
            if key in values:
                raise ValueError(f"{key} is given twice in {text!r}")
            values[key] = _amount(number, text, suffixed=key == "memory")
        return cls(**values)

    def __repr__(self) -> str:
        return f"ResourceRequirement(cpu={self.cpu}, memory={self.memory}, gpu={self.gpu})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ResourceRequirement):
            return NotImplemented
        return (self.cpu, self.memory, self.gpu) == (other.cpu, other.memory, other.gpu)

    def __hash__(self) -> int:
        return hash((self.cpu, self.memory, self.gpu))


def _amount(number: str, text: str, *, suffixed: bool) -> int:
    match = re.fullmatch(r"(\d+)(?:([kmgtp])(?:i?b)?)?", number)
    if match is None or (match[2] and not suffixed):
        wanted = "an integer with k, m, g, t or p" if suffixed else "an integer"
        raise ValueError(f"expected {wanted}, got {number!r} in {text!r}")
    return int(match[1]) * SUFFIXES[match[2] or ""]


def available_cpus() -> int:
    """CPUs this process may really use: its affinity, and the quota of its cgroup."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_cpu_quota()
    return max(1, min(cpus, int(quota))) if quota is not None else cpus


def check_memory(memory: object) -> int:
    """Bytes of values a runner may hold: what the user asked for, by default a share of what is free now.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`: no integer of at least `LEAST_MEMORY`, nor text as of `ResourceRequirement`'s `mem`.
    """
    if memory is None:
        return default_memory_limit()
    amount = -1
    if isinstance(memory, str):
        with contextlib.suppress(ValueError):
            amount = _amount(memory.strip().lower(), memory, suffixed=True)
    elif not isinstance(memory, bool) and hasattr(memory, "__index__"):
        amount = memory.__index__()
    if not LEAST_MEMORY <= amount <= MOST_MEMORY:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"memory must be a number of bytes from {LEAST_MEMORY:,} to {MOST_MEMORY:,}, or text like '512m' or '4g', got "
            f"{memory!r}; leave it out for {MEMORY_SHARE:.0%} of what is free ({default_memory_limit():,} here)",
        )
    return amount


def default_memory_limit() -> int:
    """A share of what the machine and the cgroup have free now, in bytes."""
    free = _meminfo_available()
    cgroup = _cgroup_memory_left()
    if cgroup is not None:
        free = min(free, cgroup)
    return max(64 << 20, int(free * MEMORY_SHARE))


def check_workers(workers: object, cpus: int) -> int:
    """The number of worker processes: what the user asked for, or one per CPU.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`: no integer of at least 1.
    """
    if workers is None:
        return cpus
    count = 0 if isinstance(workers, bool) or not hasattr(workers, "__index__") else workers.__index__()
    if not 1 <= count <= MOST_WORKERS:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"workers must be an integer from 1 to {MOST_WORKERS:,}, got {workers!r}; "
            f"leave it out for one per CPU ({cpus} here)",
        )
    return count


# ---- cgroups: version 2 in one tree, version 1 in one tree per controller ----------------------------------------------


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _cgroup_directories(controller: str) -> list[str]:
    """This process's cgroup and its ancestors, as far as they are visible."""
    found = []
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            roots = [f"/sys/fs/cgroup/{controllers}", f"/sys/fs/cgroup/{controller}"]
        else:
            continue
        for root in roots:
            parts = path.strip("/").split("/") if path.strip("/") else []
            found += [os.path.join(root, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return found


def _cgroup_cpu_quota() -> float | None:
    quotas = []
    for directory in _cgroup_directories("cpu"):
        limit = _read(f"{directory}/cpu.max")
        if limit is not None:
            quota, _, period = limit.partition(" ")
        else:
            quota = _read(f"{directory}/cpu.cfs_quota_us") or "max"
            period = _read(f"{directory}/cpu.cfs_period_us") or "100000"
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period or 100000))
    return min(quotas) if quotas else None


def memory_cgroups() -> list[tuple[str, str, str]]:
    """Files with the memory limit, the use and what the use is made of, for each cgroup above this process with a limit."""
    found = []
    for directory in _cgroup_directories("memory"):
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _read(f"{directory}/{limit_name}"), _read(f"{directory}/{usage_name}")
            if limit is not None and usage is not None and limit != "max" and int(limit) < 1 << 60:
                found.append((f"{directory}/{limit_name}", f"{directory}/{usage_name}", f"{directory}/memory.stat"))
    return found


def _cgroup_memory_left() -> int | None:
    left = []
    for limit, usage, stat in memory_cgroups():
        used = int(_read(usage) or 0)
        cache = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(stat) or "", re.MULTILINE)
        if cache is not None:  # pages of files that the kernel gives up first
            used -= min(used, int(cache[1]))
        left.append(max(0, int(_read(limit) or 0) - used))
    return min(left) if left else None


def _meminfo_available() -> int:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
