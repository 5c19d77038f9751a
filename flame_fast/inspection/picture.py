"""One look at a runner from outside: its segment, which it leaves unchanged, and the kernel's account of its processes."""

from __future__ import annotations

import contextlib
import os

from flame_fast.engine.spec import CLASS, FUNCTION, INSTANCE, described_by
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels.runtime import SegmentReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SEGMENT = "/memfd:flame_fast (deleted)"
#: Calls of each status and entries of each queue that are looked at, unless the caller asks for all of them.
LOOKED_AT = 20_000
UNFINISHED = ("RUNNING", "READY", "WAITING")
#: By the letters of `/proc/PID/stat`.
STATES = {
    "R": "alive, on a CPU",
    "S": "alive",
    "D": "alive, in a system call that no signal ends",
    "I": "alive",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "zombie",
    "X": "gone",
}


# ---- finding the runner --------------------------------------------------------------------------------------------------


def state_of(pid: int) -> str:
    """Return what the kernel says a process does: a value of `STATES`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            text = stat.read()
    except OSError:
        return "gone"
    return STATES.get(text.rpartition(b") ")[2][:1].decode("ascii", "replace"), "unknown")


def segments_of(pid: int) -> list[str]:
    """Return paths below `/proc` that open a process's segments, each segment once.

    Raises
    ------
    FlameError
        The process does not exist, may not be looked at, or has no segment.
    """
    directory = f"/proc/{pid}/fd"
    try:
        names = sorted(os.listdir(directory), key=int)
    except FileNotFoundError as error:
        raise FlameError(FlameErrorCode.NOT_FOUND, f"there is no process {pid}") from error
    except PermissionError as error:
        raise FlameError(
            FlameErrorCode.INVALID_STATE, f"process {pid} is another user's: look at it as that user, or with `sudo`"
        ) from error
    found: dict[tuple[int, int], str] = {}
    for name in names:
        with contextlib.suppress(OSError):  # closed meanwhile
            path = f"{directory}/{name}"
            if os.readlink(path) == SEGMENT:
                status = os.stat(path)
                found.setdefault((status.st_dev, status.st_ino), path)
    if not found:
        if state_of(pid) == "zombie":
            raise FlameError(FlameErrorCode.INVALID_STATE, f"process {pid} has ended, and waits for its parent to notice")
        raise FlameError(FlameErrorCode.INVALID_ARGUMENT, f"process {pid} is no process of a runner")
    if not _same_pids(pid):
        raise FlameError(
            FlameErrorCode.INVALID_STATE,
            f"process {pid} lives in a container, with process ids of its own: look from inside it",
        )
    return list(found.values())


def _same_pids(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return True


def has_segment(pid: int, segment: os.stat_result) -> bool:
    """Tell whether a process has a segment open or mapped; assume so if it may not be looked at."""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{name}")
                if (status.st_dev, status.st_ino) == (segment.st_dev, segment.st_ino):
                    return True
        with open(f"/proc/{pid}/maps") as maps:  # last: reading it waits for a process that maps memory
            return any("memfd:flame_fast" in line and line.split()[4] == str(segment.st_ino) for line in maps)
    except PermissionError:
        return True
    except OSError:
        return False


# ---- one look ------------------------------------------------------------------------------------------------------------


class Picture:
    """One look at a runner: plain values, read once.

    Parameters
    ----------
    fd : int
        A descriptor of its segment, open for reading.
    most : int
        Limit to the waiting calls, the queued calls, and the entries of each queue that are looked at.
    """

    def __init__(self, fd: int, most: int = LOOKED_AT) -> None:
        self.most = most
        self._reader = SegmentReader(fd)
        segment = os.fstat(fd)
        self.runner: dict[str, Any] = self._reader.header()
        self.bytes_allocated: int = segment.st_blocks * 512
        self.processes: dict[int, dict[str, Any]] = {entry["index"]: entry for entry in self._reader.processes()}
        for entry in self.processes.values():
            entry["alive"] = self._alive(entry["pid"], segment)
        self.services: dict[int, dict[str, Any]] = {entry["index"]: entry for entry in self._reader.services()}
        for entry in self.services.values():
            entry.update(_described(entry.pop("blob")))
        self.queues: dict[int, dict[str, Any]] = {entry["index"]: entry for entry in self._reader.queues()}
        for entry in self.queues.values():
            entry["entries"] = self._reader.entries(entry["index"], most)
        counts, slots = self._reader.slots(most)
        self.counts: dict[str, int] = counts
        self.slots: dict[int, dict[str, Any]] = {entry["index"]: entry for entry in slots}
        self.extents: dict[str, tuple[int, int]] = self._reader.extents()

    @staticmethod
    def _alive(pid: int, segment: os.stat_result) -> str:
        if not pid:
            return "not started"
        state = state_of(pid)
        if state not in ("gone", "zombie") and not has_segment(pid, segment):
            return "gone"  # another process has its number by now
        return state

    def status_of(self, slot: int) -> str:
        """Return the status of any slot; FREE if there is none of that number."""
        entry = self.slots.get(slot) or self._reader.slot(slot)
        return entry["status"] if entry else "FREE"

    def is_whole(self) -> bool:
        """Tell whether the look covered every unfinished call and every queue's entry."""
        unfinished = sum(self.counts.get(name, 0) for name in UNFINISHED)
        return len(self.slots) >= unfinished and all(
            len(entry["entries"]) >= entry["tail"] - entry["head"] for entry in self.queues.values()
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "runner": self.runner,
            "processes": list(self.processes.values()),
            "services": list(self.services.values()),
            "queues": list(self.queues.values()),
            "slots": list(self.slots.values()),
            "counts": self.counts,
            "extents": self.extents,
        }

    def run_by(self, process: int) -> list[int]:
        """Return the slots that a process has claimed: of its call, of calls that wait below it, of its promises."""
        return [index for index, slot in self.slots.items() if slot["status"] == "RUNNING" and slot["owner"] == process]

    # Names

    def process(self, index: int | None) -> str:
        """Return a process's name in messages."""
        if index is None:
            return "no process"
        entry = self.processes.get(index)
        if entry is None:
            return f"process {index} (which is not in the table)"
        if entry["role"] in ("driver", "supervisor"):
            return f"the {entry['role']} (pid {entry['pid']})"
        return f"{entry['role']} {index} (pid {entry['pid']})" if entry["pid"] else f"{entry['role']} {index} (not started)"

    def service(self, index: int) -> str:
        name = self.services.get(index, {}).get("name")
        return f"service {index}" if name is None else f"service {index} {name!r}"

    def call(self, slot: int) -> str:
        """Return a slot's name in messages, with the call in it."""
        entry = self.slots.get(slot)
        if entry is None:
            return f"slot {slot} ({self.status_of(slot)})"
        if not entry["has_payload"]:  # a promise, or a call that writes its result
            return f"slot {slot}"
        methods = self.services.get(entry["service"], {}).get("methods") or []
        method = methods[entry["method"]] if entry["method"] < len(methods) else ""
        return f"slot {slot} ({self.service(entry['service'])}{f', method {method!r}' if method else ''})"


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _described(blob: bytes) -> dict[str, Any]:
    """Return name, kind and methods of a service, as far as its blob tells them."""
    found: dict[str, Any] = {"name": None, "kind": None, "methods": []}
    with contextlib.suppress(ValueError, RecursionError):  # not yet written, or freed already
        fields, _ = described_by(blob)
        if isinstance(fields["name"], str) and fields["kind"] in (FUNCTION, CLASS, INSTANCE):
            found |= {"name": fields["name"], "kind": fields["kind"]}
            if isinstance(fields["methods"], list):
                found["methods"] = [str(method) for method in fields["methods"]]
    return found
