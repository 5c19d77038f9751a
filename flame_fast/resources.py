"""Resources: the CPUs and memory that this process may really use, and those that a call asks for."""

from __future__ import annotations

import os
import re

from flame_fast._records import record
from flame_fast.errors import FlameError, FlameErrorCode

#: Share of the memory available now that a runner's values may take.
MEMORY_SHARE = 0.8

#: Bounds of `Runner(memory=...)`: enough for every process's blocks; the addresses that a segment reserves.
LEAST_MEMORY = 16 << 20
MOST_MEMORY = 1 << 39

#: Most workers. The process table has as many entries again, for instances and for workers beside waiting tasks.
MOST_WORKERS = 1024


def parse_size(value: object) -> int | None:
    """Parse a size in bytes: an integer, or text like ``500 MB``, ``2g`` or ``1.5 GiB``.

    Parameters
    ----------
    value : object
        Text is a number, perhaps with a suffix k, m, g, t or p in either case. A suffix is binary in every spelling: ``k``,
        ``KB`` and ``KiB`` are 1024. With one the number may have a decimal point; part of a byte is cut off.

    Returns
    -------
    int or None
        None if the value is neither, or negative.
    """
    if isinstance(value, str):
        # Twenty digits write 2**64; `int` refuses text of thousands.
        match = re.fullmatch(r"([0-9]{1,20})(?:\.([0-9]{1,20})(?= *[kmgtp]))? *(?:([kmgtp])i?)?b?", value.strip().lower())
        if match is None:
            return None
        decimals = match[2] or ""
        shift = 10 * " kmgtp".index(match[3] or " ")
        return (int(match[1] + decimals) << shift) // int("1" + "0" * len(decimals))
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    size: int = value.__index__()
    return size if size >= 0 else None


@record
class ResourceRequirement:
    """Resources that one call of a service takes.

    Parameters
    ----------
    cpu : int
        CPUs, at least 1: bounds how many calls run at once, and sets the worker's thread limit.
    memory : int
        Bytes; recorded.
    gpu : int
        Devices; recorded. `Runner.service` refuses more than the machine has.

    Raises
    ------
    ValueError
        Something that is no integer, or out of range.
    """

    cpu: int = 1
    memory: int = 0
    gpu: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (("cpu", self.cpu, 1), ("memory", self.memory, 0), ("gpu", self.gpu, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")

    @classmethod
    def from_string(cls, text: str) -> ResourceRequirement:
        """Parse text like ``cpu=2,mem=1g,gpu=0``: integers, `mem` (or `memory`) a size as of `parse_size`.

        Raises
        ------
        ValueError
            Names the part that is wrong.
        """
        if not isinstance(text, str):
            raise ValueError(f"resreq: expected text like 'cpu=2,mem=1g', got {text!r}")
        values: dict[str, int] = {}
        for part in text.split(","):
            key, equals, number = (piece.strip().lower() for piece in part.partition("="))
            key = {"mem": "memory"}.get(key, key)
            if not equals or key not in ("cpu", "memory", "gpu"):
                raise ValueError(f"resreq {text!r}: expected cpu=, mem= or gpu=, got {part.strip()!r}")
            if key in values:
                raise ValueError(f"resreq {text!r}: expected {key} once, got it twice")
            amount = parse_size(number) if key == "memory" or number.isdigit() else None
            if amount is None:
                expected = "a whole number, perhaps with k, m, g, t or p" if key == "memory" else "a whole number"
                raise ValueError(f"{key} in resreq {text!r}: expected {expected}, got {number!r}")
            values[key] = amount
        return cls(**values)

    def __hash__(self) -> int:
        return hash((self.cpu, self.memory, self.gpu))


def available_cpus() -> int:
    """Return the CPUs that this process may really use: its affinity, and the quota of its cgroup."""
    cpus = affine_cpus()
    quota = _cgroup_cpu_quota()
    return max(1, min(cpus, int(quota))) if quota is not None else cpus


def affine_cpus() -> int:
    """Return the CPUs of this process's affinity; all of the machine's, where a container refuses to tell."""
    try:
        return len(os.sched_getaffinity(0))
    except OSError:
        return os.cpu_count() or 1


def check_memory(memory: object) -> int:
    """Return the bytes of values that a runner may hold: those asked for, by default a share of what is free now.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`: no size as of `parse_size`, or one out of bounds.
    """
    if memory is None:
        return default_memory_limit()
    amount = parse_size(memory)
    if amount is None or not LEAST_MEMORY <= amount <= MOST_MEMORY:
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"memory: expected a number of bytes from {LEAST_MEMORY:,} to {MOST_MEMORY:,}, or text like '512m' or '4g', got "
            f"{memory!r}; leave it out for {MEMORY_SHARE:.0%} of what is free ({default_memory_limit():,} here)",
        )
    return amount


def default_memory_limit() -> int:
    """Return a share of the bytes that the machine and the cgroup have free now."""
    free = _meminfo_available()
    cgroup = _cgroup_memory_left()
    if cgroup is not None:
        free = min(free, cgroup)
    return max(64 << 20, int(free * MEMORY_SHARE))


def check_workers(workers: object, cpus: int) -> int:
    """Return the number of worker processes: the number asked for, by default one per CPU.

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
            f"workers: expected an integer from 1 to {MOST_WORKERS:,}, got {workers!r}; "
            f"leave it out for one per CPU ({cpus} here)",
        )
    return count


# ---- GPUs --------------------------------------------------------------------------------------------------------------


def check_gpus(asked: int) -> None:
    """Check that this machine has so many GPUs.

    Raises
    ------
    FlameError
        `INVALID_ARGUMENT`: it has fewer.
    """
    there = count_gpus()
    if there is not None and asked > there:
        found = f"has {there}" if there else "has none (neither /dev/nvidia0 nor a GPU of /sys/class/kfd is there)"
        raise FlameError(
            FlameErrorCode.INVALID_ARGUMENT,
            f"resreq: expected at most the GPUs of this machine, which {found}, got gpu={asked}; leave gpu out, or start "
            "where the devices are visible",
        )


def count_gpus(root: str = "/") -> int | None:
    """Return how many GPUs of NVIDIA and AMD are there, by their devices; None: they cannot be counted.

    Parameters
    ----------
    root : str
        Where ``dev``, ``proc`` and ``sys`` are.
    """
    devices = _names(os.path.join(root, "dev"))
    if "dxg" in devices:  # Windows has them
        return None
    count = sum(re.fullmatch(r"nvidia[0-9]+", name) is not None for name in devices)
    slices = 0  # a GPU that is divided (MIG) counts by its parts
    capabilities = os.path.join(root, "proc/driver/nvidia/capabilities")
    for gpu in _names(capabilities):
        parts = os.path.join(capabilities, gpu, "mig")
        slices += sum(re.fullmatch(r"gi[0-9]+", name) is not None for name in _names(parts))
    nodes = os.path.join(root, "sys/class/kfd/kfd/topology/nodes")
    return max(count, slices) + sum((_read(os.path.join(nodes, node, "gpu_id")) or "0") != "0" for node in _names(nodes))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


# ---- cgroups: version 2 in one tree, version 1 in one tree per controller ----------------------------------------------


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def _cgroup_directories(controller: str) -> list[str]:
    """Return this process's cgroup and its ancestors, as far as they are visible."""
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
    """Return, for each cgroup above this process with a memory limit, its files: limit, use, and statistics of the use."""
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


def memory_events() -> list[str]:
    """Return the file that counts the memory events of the innermost cgroup of this process that has one."""
    files = (
        f"{directory}/{name}"
        for directory in _cgroup_directories("memory")
        for name in ("memory.events", "memory.oom_control")
    )
    return [name for name in files if _read(name) is not None][:1]


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
