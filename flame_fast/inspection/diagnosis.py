"""Which call waits for which in a runner, and what looks wrong: read off one `flame_fast.inspection.picture.Picture`.

A finding is a line that names the process or call at fault, what it costs, and what to do about it. A runner at work is
always in the middle of something, so a finding counts only if a second look repeats it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from flame_fast.inspection.picture import Picture

    Findings = Iterator[tuple[object, str]]

FINISHED = ("DONE", "FAILED", "LEAVING")
#: Entries that a queue's ring has room for.
MOST_ENTRIES = 1 << 20
#: Links of a chain that are printed, from its beginning and its end.
LINKS = 4

ENDED = ("gone", "zombie")
STOPPED = ("stopped", "stopped by a debugger")
HALTED = ENDED + STOPPED


def needs(picture: Picture, *, all_of_them: bool = False) -> dict[int, list[int]]:
    """Return the wait-for graph: the unfinished slots that each unfinished slot waits for, directly.

    An entry of an instance's queue waits for the one before it; the first entry waits for the call that the instance runs.
    `all_of_them`: without the slots of which any one is enough.
    """
    found: dict[int, list[int]] = {}
    for index, slot in picture.slots.items():
        waits_for = () if all_of_them and slot["waits_for_any"] else slot["waits_for"]
        found[index] = [need for need in (*waits_for, *slot["missing_slots"]) if need in picture.slots]
    for queue in picture.queues.values():
        if not queue["ordered"]:
            continue
        before = picture.processes.get(queue["process"], {}).get("runs")
        for _, index, valid in queue["entries"]:
            if not valid or index not in found:
                continue
            if before is not None and before in found and before not in found[index]:
                found[index].append(before)
            before = index
    return found


def chains(picture: Picture) -> list[str]:
    """Describe each call that others wait for and that waits for none itself.

    A line tells how many calls wait for it, and the longest chain to it. Cycles of calls that wait for each other come
    first.
    """
    graph = needs(picture)
    rings = [f"{_joined(picture, ring)}: a ring" for ring in find_rings(graph)]
    dependents: dict[int, list[int]] = {}
    for index, needed in graph.items():
        for need in needed:
            dependents.setdefault(need, []).append(index)
    found = []
    for end in (index for index, needed in graph.items() if not needed and index in dependents):
        way: dict[int, int] = {end: end}  # slot -> the next one on a shortest way to the end
        todo = [end]
        for index in todo:
            for dependent in dependents.get(index, ()):
                if dependent not in way:
                    way[dependent] = index
                    todo.append(dependent)
        chain = [todo[-1]]
        while chain[-1] != end:
            chain.append(way[chain[-1]])
        count = len(todo) - 1
        found.append((count, f"{_joined(picture, chain)}, {_situation(picture, end)}: {count:,} in all wait for it"))
    found.sort(key=lambda one: -one[0])
    return rings + [line for _, line in found]


def find_rings(graph: dict[int, list[int]]) -> list[list[int]]:
    """Return the cycles of a graph, one for each back edge of a depth-first search.

    Each repeats its first element at its end.
    """
    rings = []
    done: set[int] = set()
    for root in graph:
        path = [root]
        on_path = {root: 0}
        ways: list[Iterator[int]] = [iter(graph[root] if root not in done else ())]
        while ways:
            need = next(ways[-1], None)
            if need is None:
                ways.pop()
                done.add(path[-1])
                del on_path[path.pop()]
            elif need in on_path:
                rings.append([*path[on_path[need] :], need])
            elif need not in done:
                on_path[need] = len(path)
                path.append(need)
                ways.append(iter(graph[need]))
    return rings


def _joined(picture: Picture, chain: list[int]) -> str:
    said = [picture.call(index) for index in chain]
    if len(said) > 2 * LINKS:
        said[LINKS:-LINKS] = [f"({len(said) - 2 * LINKS:,} others)"]
    return " waits for ".join(said)


def _situation(picture: Picture, index: int) -> str:
    slot = picture.slots[index]
    if slot["status"] == "RUNNING":
        owner = picture.processes.get(slot["owner"])
        return f"which runs in {picture.process(slot['owner'])}" + (
            f", which is {owner['alive']}" if owner is not None and owner["alive"] in HALTED else ""
        )
    if slot["status"] == "READY":
        return f"which is queued in queue {slot['queue']}"
    return "which waits for nothing that is unfinished"


# ---- what looks wrong ----------------------------------------------------------------------------------------------------


def wrong(picture: Picture) -> dict[object, str]:
    """Return all that a healthy runner does not show for longer than a moment: lines, by their subjects."""
    rings = find_rings(needs(picture, all_of_them=True))
    return {
        **dict(_lock(picture)),
        **dict(_supervision(picture)),
        **dict(_workers(picture)),
        **dict(_queues(picture)),
        **dict(_calls(picture)),
        **{
            ("ring", *sorted(ring[1:])): f"{_joined(picture, ring)}: these calls wait for each other for ever"
            for ring in rings
        },
    }


def _role(picture: Picture, role: str) -> dict[str, Any]:
    return next((entry for entry in picture.processes.values() if entry["role"] == role), {"alive": "gone", "pid": 0})


def _lock(picture: Picture) -> Findings:
    holder = picture.runner["lock_holder"]
    if holder is None:
        return
    entry = picture.processes.get(holder)
    who = picture.process(holder)
    if entry is not None and entry["alive"] in STOPPED:
        yield (
            "lock",
            f"the lock is held by {who}, which is {entry['alive']}: every process that allocates or frees memory waits "
            f"until it goes on (kill -CONT {entry['pid']}), or ends (kill -9 {entry['pid']})",
        )


def _supervision(picture: Picture) -> Findings:
    supervisor, driver = _role(picture, "supervisor"), _role(picture, "driver")
    if supervisor["alive"] in STOPPED:
        replaced = "" if driver["alive"] in HALTED else f", or kill it (kill -9 {supervisor['pid']}), the driver replaces it"
        yield (
            "supervisor",
            f"the supervisor is {supervisor['alive']}: nothing is recovered and no worker is started until it goes on: "
            f"kill -CONT {supervisor['pid']}{replaced}",
        )
    if supervisor["alive"] in ENDED:
        yield (
            "supervisor",
            f"the supervisor (pid {supervisor['pid']}) has ended, and the driver (pid {driver['pid']}, {driver['alive']}) "
            "has not replaced it: nothing is recovered and no worker is started; the driver's standard error tells why",
        )
    if driver["alive"] in STOPPED:
        yield (
            "driver",
            f"the driver is {driver['alive']}: it makes no calls and reads no results until kill -CONT {driver['pid']}",
        )
    if driver["alive"] in ENDED:
        yield "driver", f"the driver (pid {driver['pid']}) has ended, and the supervisor has not ended the runner"


def _workers(picture: Picture) -> Findings:
    for entry in picture.processes.values():
        if entry["role"] not in ("worker", "instance") or entry["alive"] not in HALTED:
            continue
        running = picture.run_by(entry["index"])
        named = ", ".join(map(picture.call, running[:LINKS])) + (", ..." if len(running) > LINKS else "")
        what = f"while it runs {named}" if running else "and runs nothing"
        key, who = ("process", entry["index"]), picture.process(entry["index"])
        if entry["alive"] in ENDED:
            yield key, f"{who} has ended {what}, and the supervisor has not recovered what it left"
        else:
            yield key, f"{who} is {entry['alive']} {what}; it goes on after kill -CONT {entry['pid']}"


def _queues(picture: Picture) -> Findings:
    """Find calls that could run and that no process runs."""
    pool = [entry for entry in picture.processes.values() if entry["role"] == "worker"]
    idle = ("sleeping", "retiring", "blocked")
    at_work = [entry for entry in pool if entry["alive"] not in HALTED and not any(entry[name] for name in idle)]
    for queue in picture.queues.values():
        valid = [index for _, index, is_valid in queue["entries"] if is_valid and index in picture.slots]
        if queue["ordered"]:
            del valid[1:]  # only the first entry may run
        ready = [index for index in valid if picture.slots[index]["status"] == "READY"]
        if not ready:
            continue
        key = ("queue", queue["index"])
        which = f"{picture.call(ready[0])} is the first call that could run in queue {queue['index']}, and"
        if queue["ordered"]:
            server = picture.processes.get(queue["process"])
            if server is None:
                yield key, f"{which} no process serves it"
            elif server["state"] != "LIVE":
                yield key, f"{which} the instance's process is not started: that is for the supervisor to do"
            elif server["sleeping"] or server["alive"] in HALTED:
                doing = "sleeps" if server["sleeping"] else f"is {server['alive']}"
                yield key, f"{which} {picture.process(server['index'])} {doing}"
        elif not at_work:
            asleep, blocked, halted = (
                sum(map(bool, found))
                for found in (
                    [entry["sleeping"] for entry in pool],
                    [entry["blocked"] for entry in pool],
                    [entry["alive"] in HALTED for entry in pool],
                )
            )
            yield (
                key,
                f"{which} no worker looks at it: of {len(pool)} workers ({picture.runner['workers']} wanted) "
                f"{asleep} sleep, {blocked} wait for other calls, {halted} are stopped or have ended",
            )
        elif queue["limit"] and len(queue["permits"]) >= queue["limit"]:
            holders = [picture.processes.get(index) for index in queue["permits"]]
            if all(holder is None or holder["alive"] in HALTED or holder["sleeping"] for holder in holders):
                yield key, f"{which} all its permits are taken by workers that sleep, are stopped or have ended"


def _calls(picture: Picture) -> Findings:
    """Find states in the table that cannot last."""
    named = {index for queue in picture.queues.values() for _, index, valid in queue["entries"] if valid}
    whole = picture.is_whole()
    for index, slot in picture.slots.items():
        key, which = ("slot", index, slot["generation"]), picture.call(index)
        if slot["status"] == "READY" and whole and index not in named:
            yield key, f"{which} is READY, and no queue names it: it never runs"
        elif slot["status"] == "RUNNING" and slot["owner"] not in picture.processes:
            yield key, f"{which} runs in process {slot['owner']}, which is not in the table"
        elif slot["status"] == "WAITING":
            finished = next((need for need in slot["missing_slots"] if picture.status_of(need) in FINISHED), None)
            creator = picture.processes.get(slot["creator"])
            if slot["submitting"] and (creator is None or creator["alive"] in HALTED):
                yield key, f"{which} waits for {picture.process(slot['creator'])} to finish its submission"
            elif finished is not None:
                yield key, f"{which} waits for slot {finished}, which is finished: no process told it"
            elif slot["dependencies"] and not slot["missing"] and not slot["submitting"]:
                yield key, f"{which} is WAITING, and all its dependencies are finished: no process made it ready"
