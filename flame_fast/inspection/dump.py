"""``python -m flame_fast dump PID``: the state of a runner in words, for one that hangs.

`picture` finds the runner and reads it, `diagnosis` finds what is wrong, this file puts both into words.
"""

from __future__ import annotations

import os
import time

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.inspection import diagnosis
from flame_fast.inspection.picture import LOOKED_AT, UNFINISHED, Picture, counted, segments_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: Unfinished calls of each status, and entries of each queue, that are printed.
PRINTED = 20
#: Seconds between two looks. A finding must be in both: a runner at work is always in the middle of something.
SECOND_LOOK_S = 0.2

# ---- words ---------------------------------------------------------------------------------------------------------------


def describe(picture: Picture, wrong: list[str], printed: int = PRINTED) -> Iterator[str]:
    """Yield the lines that describe a picture; those of `wrong` come last."""
    yield from _runner(picture)
    yield "processes"
    for process in picture.processes.values():
        yield f"  {_process(picture, process)}"
    yield "services"
    for service in picture.services.values():
        kind = f" ({service['kind']})" if service["kind"] else ""
        queue, creator = service["queue"], picture.process(service["creator"])
        yield f"  {picture.service(service['index'])}{kind}: {service['state']}, queue {queue}, made by {creator}"
    yield "queues"
    for queue in picture.queues.values():
        yield from _queue(picture, queue, printed)
    yield "calls"
    yield "  " + ", ".join(f"{count:,} {name}" for name, count in picture.counts.items() if name != "FREE")
    for status in UNFINISHED:
        of_status = [slot for slot in picture.slots.values() if slot["status"] == status]
        for slot in of_status[:printed]:
            yield f"  {_slot(picture, slot)}"
        left = picture.counts.get(status, 0) - min(printed, len(of_status))
        if left > 0:
            yield f"  and {left:,} more {status}"
    chains = diagnosis.chains(picture)
    if chains:
        yield "what waits for what"
        for chain in chains[:printed]:
            yield f"  {chain}"
        if len(chains) > printed:
            yield f"  and {len(chains) - printed:,} more"
    if wrong:
        yield "what looks wrong"
        for line in wrong:
            yield f"  {line}"
    else:
        yield "nothing looks wrong"


def _runner(picture: Picture) -> Iterator[str]:
    runner, holder = picture.runner, picture.runner["lock_holder"]
    wanted, cpus = counted(runner["workers"], "worker"), counted(runner["cpus"], "CPU")
    yield (
        f"runner of {picture.process(0)}, session {runner['session']:016x}: "
        f"{wanted} wanted, {cpus}, {'closing' if runner['closing'] else 'open'}"
    )
    yield (
        f"  memory: {runner['live_bytes']:,} bytes in use of {runner['limit_bytes']:,} allowed, "
        f"{runner['peak_bytes']:,} at most so far, {runner['cached_bytes']:,} kept free; "
        f"the segment takes {picture.bytes_allocated:,} bytes of {runner['bytes_reserved']:,} addresses"
    )
    kinds = [f"{count:,} {name} ({size:,} bytes)" for name, (count, size) in sorted(picture.extents.items())]
    yield f"  extents: {', '.join(kinds) or 'none'}"
    if holder is None:
        yield "  the lock is free"
    else:
        alive = picture.processes[holder]["alive"] if holder in picture.processes else "gone"
        middle = f", in the middle of a {runner['redo']} of slot {runner['redo_slot']}" if runner["redo"] else ""
        yield f"  the lock is held by {picture.process(holder)}, which is {alive}{middle}"


def _process(picture: Picture, process: dict[str, Any]) -> str:
    said = [f"{picture.process(process['index'])}: {process['alive']}"]
    if process["state"] != "LIVE":
        said.append(process["state"])
    if process["queue"] is not None:
        said.append(f"serves queue {process['queue']}")
    if process["runs"] is not None:
        said.append(f"runs {picture.call(process['runs'])}")
    elif process["role"] in ("worker", "instance") and process["state"] == "LIVE":
        said.append("runs nothing")
    interrupted = [
        index for index in picture.run_by(process["index"]) if index != process["runs"] and picture.slots[index]["started"]
    ]
    if interrupted and process["role"] != "driver":
        said.append(f"in a wait of {', '.join(map(picture.call, interrupted[:PRINTED]))}")
    permits = [queue["index"] for queue in picture.queues.values() if process["index"] in queue["permits"]]
    if permits:
        said.append(f"has a permit at queue {', '.join(map(str, permits))}")
    if process["blocked"]:
        said.append("its call waits for other calls")
    if process["waiters"]:
        said.append(f"{process['waiters']} of its threads sleep for a future")
    for name, words in (
        ("sleeping", "sleeps until a submitter wakes it"),
        ("seeking", "looks for calls"),
        ("retiring", "leaves"),
    ):
        if process[name]:
            said.append(words)
    if process["spinning"]:
        said.append("spins")
    for name, words in (
        ("building", "fills in slot {}"),
        ("taking", "allocates the block at {}"),
        ("promoting", "queues slot {}"),
        ("rotating", "moves the entry to slot {} to its queue's end"),
        ("releasing_slot", "releases a dependency's reference to slot {}"),
    ):
        if process[name] is not None:
            said.append(words.format(process[name]))
    return ", ".join(said)


def _queue(picture: Picture, queue: dict[str, Any], printed: int) -> Iterator[str]:
    traits = [queue["state"]]
    if queue["urgent_of"] is not None:
        traits.append(f"urgent calls of queue {queue['urgent_of']}")
    elif queue["ordered"]:
        traits.append(f"in order, served by {picture.process(queue['process'])}")
    if queue["limit"]:
        permits = ", ".join(picture.process(index) for index in queue["permits"]) or "none"
        kept = " (they keep them)" if queue["sticky"] else ""
        traits.append(f"at most {counted(queue['limit'], 'worker')} at a time, permits taken: {permits}{kept}")
    if queue["sleepers"]:
        traits.append(f"{queue['sleepers']} asleep")
    yield f"  queue {queue['index']}: {', '.join(traits)}; head {queue['head']}, tail {queue['tail']}"
    for position, slot, valid in queue["entries"][:printed]:
        if slot is None:
            yield f"    {position}: taken out, or not written yet"
        elif valid:
            yield f"    {position}: {picture.call(slot)}, {picture.status_of(slot)}"
        else:
            yield f"    {position}: slot {slot}, void ({picture.status_of(slot)} now)"
    left = queue["tail"] - queue["head"] - min(printed, len(queue["entries"]))
    if left < 0 or left > diagnosis.MOST_ENTRIES:
        yield "    head and tail make no sense"
    elif left:
        yield f"    and {left:,} more"


#: What the options of a call are in words.
OPTIONS = (
    ("limited", "with a limit of time"),
    ("retried", "tried again if it fails"),
    ("detached", "detached"),
    ("unwanted", "to be ended by force"),
)


def _slot(picture: Picture, slot: dict[str, Any]) -> str:
    said = [f"{picture.call(slot['index'])}: {slot['status']}"]
    if slot["status"] in ("RUNNING", "ENDING"):
        said[0] += (
            f" in {picture.process(slot['owner'])}" if slot["started"] else f", claimed by {picture.process(slot['owner'])}"
        )
        if not slot["has_payload"]:
            said.append("a promise, or its result is being written")
    else:
        said.append(f"queue {slot['queue']}")
    said.append(f"made by {picture.process(slot['creator'])}")
    if slot["map"]:
        said.append("a chunk of a map")
    said += [words for name, words in OPTIONS if slot[name]]
    holds = [
        words
        for name, words in (
            ("held_by_creator", "its creator's future"),
            ("held_by_lists", "its edges on dependencies' lists"),
            ("dependent_pending", "a dependent that is just being added"),
        )
        if slot[name]
    ]
    if slot["dependents"]:
        holds.append(counted(slot["dependents"], "dependent"))
    said.append(f"held by {', '.join(holds) or 'itself alone'}")
    if slot["dependencies"]:
        missing = ", ".join(map(str, slot["missing_slots"][:PRINTED]))
        more = ", ..." if slot["missing"] > PRINTED else ""
        said.append(
            f"{slot['missing']:,} of {slot['dependencies']:,} dependencies missing"
            + (f": slots {missing}{more}" if missing else "")
        )
    if slot["submitting"]:
        said.append("its submitter has not finished yet")
    if slot["waits_for"]:
        what = ", ".join(map(str, slot["waits_for"][:PRINTED])) + (", ..." if len(slot["waits_for"]) > PRINTED else "")
        said.append(f"waits for {'any of slots' if slot['waits_for_any'] else 'slot'} {what}")
    return "; ".join(said)


# ---- the command ---------------------------------------------------------------------------------------------------------


def looked_at(path: str, everything: bool) -> tuple[Picture, list[str]]:
    """Return a picture of the segment at a path, and the findings that two looks at it share."""
    most = (1 << 31) - 1 if everything else LOOKED_AT
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise FlameError(FlameErrorCode.NOT_FOUND, "the process ended meanwhile") from error
    try:
        picture = Picture(fd, most)
        wrong = diagnosis.wrong(picture)
        if wrong:
            time.sleep(SECOND_LOOK_S)
            picture = Picture(fd, most)
            before, wrong = wrong, diagnosis.wrong(picture)
            wrong = {key: line for key, line in wrong.items() if key in before}
        return picture, list(wrong.values())
    except ValueError as error:
        raise FlameError(FlameErrorCode.INVALID_STATE, f"cannot read {path}: {error}") from error
    finally:
        os.close(fd)


def dump(pid: int, *, everything: bool = False, as_json: bool = False) -> Iterator[str]:
    """Yield the lines that tell what the runners of a process are doing.

    Parameters
    ----------
    pid : int
        Any process of a runner: the driver, the supervisor, a worker.
    everything : bool
        Look at all calls and print them, not only the first ones.
    as_json : bool
        One line for each runner, a JSON object, in place of words.

    Raises
    ------
    FlameError
        The process does not exist, may not be looked at, belongs to no runner, or to another build of flame_fast.
    """
    for number, path in enumerate(segments_of(pid)):
        picture, wrong = looked_at(path, everything)
        if as_json:
            import json

            yield json.dumps(picture.as_dict() | {"wrong": wrong})
            continue
        if number:
            yield ""
        yield from describe(picture, wrong, diagnosis.MOST_ENTRIES if everything else PRINTED)
