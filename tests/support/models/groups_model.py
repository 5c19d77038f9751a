"""Groups of members, each taken or free, and the lock: `groups.pxd`, `repair.pxd`, `lock.pxd`, for `explorer.py`.

The lock is a robust mutex: the kernel tells the process that acquires it next that its holder died; that process repairs.
"""

from __future__ import annotations

import functools

from explorer import Scenario, cas, clear, exchange, fail, load, mutex, store, stores, when
from protocol_model import FREE, ZYGOTE

CURRENT, CLAIMED = 0x10, 0x20
NOBODY, ORPHAN = "", "orphan"


class Groups:
    """Groups of `size` members each; a process allocates from its own, and keeps a private list of these."""

    def __init__(self, groups=2, size=1, without=()):
        self.groups = groups
        self.size = size
        self.members = (1 << size) - 1
        self.without = frozenset(without)

    def has(self, what):
        return what not in self.without

    def words(self, processes):
        words = {"lock": "", "free": (), "high": 0}
        for group in range(self.groups):
            words.update({("used", group): 0, ("owner", group): NOBODY})
            words.update((("place", group, 1 << bit), NOBODY) for bit in range(self.size))
        for process in processes:
            notes = {
                ("building", process): None,
                ("freeing", process): None,
                ("box", process): None,
                ("entry", process): "live",
            }
            words.update(notes)
        return words

    # ---- lock.pxd, repair.pxd ----------------------------------------------------------------------------------------

    def lock_acquire(self, me):
        if (yield mutex("lock", me)) and self.has("repair"):
            yield from self.repair()

    def repair(self):
        """`repair_slot_groups`: rebuild the list from the groups' words."""
        free = ()
        high = yield load("high")
        for group in range(self.groups):
            if group >= high:
                break
            if (yield load(("used", group))) & CLAIMED:
                yield store(("owner", group), NOBODY)
                free = (group, *free)
        yield store("free", free)

    # ---- groups.pxd --------------------------------------------------------------------------------------------------

    def member_alloc(self, me, current, mine):
        """Return (member or None, the current group, groups of its own)."""
        while True:
            if current is not None:
                while True:
                    used = yield load(("used", current))
                    bit = ~used & self.members
                    bit &= -bit
                    if not bit:
                        break
                    if self.has("the name of what is taken"):
                        yield store(("building", me), (current, bit))
                    if (yield cas(("used", current), used, used | bit)):
                        return (current, bit), current, mine
            current, mine = yield from self.next_group(me, current, mine)
            if current is None:
                return None, None, mine

    def next_group(self, me, current, mine):
        if current is not None:
            yield from self.group_clear(me, current, CURRENT)
        for group in range(self.groups):
            if group not in mine:
                continue
            if (yield load(("owner", group))) != me:
                mine = tuple(other for other in mine if other != group)
                continue
            used = yield load(("used", group))
            if used >= CURRENT or not ~used & self.members:
                continue
            if (yield from self.group_hold(me, group, used)):
                return group, mine
        group = yield from self.slot_group_new(me)
        return group, mine if group is None or group in mine else (*mine, group)

    def group_hold(self, me, group, used):
        if not (yield cas(("used", group), used, used | CURRENT)):
            return False
        if not self.has("a look at the owner of a current group") or (yield load(("owner", group))) == me:
            return True
        yield from self.group_clear(me, group, CURRENT)
        return False

    def group_clear(self, me, group, bits):
        before = yield clear(("used", group), bits)
        if not before & ~bits:
            yield from self.group_claim(me, group)

    def group_claim(self, me, group):
        if not self.has("a claim by cas"):
            if (yield load(("used", group))):
                return
            yield store(("used", group), CLAIMED)
        elif not (yield cas(("used", group), 0, CLAIMED)):
            return
        yield from self.lock_acquire(me)
        yield from self.group_free_claimed(group)
        yield store("lock", "")

    def group_free_claimed(self, group):
        if not (yield load(("used", group))) & CLAIMED:
            return
        if (yield load(("owner", group))) != NOBODY:
            yield store(("owner", group), NOBODY)
            free = yield load("free")
            yield store("free", (group, *free))

    def slot_group_new(self, me):
        yield from self.lock_acquire(me)
        free = yield load("free")
        high = yield load("high")
        group = free[0] if free else high if high < self.groups else None
        if group is not None:
            yield store(("owner", group), me)
            yield store(("used", group), CURRENT)
            if free:
                yield store("free", free[1:])
            else:
                yield store("high", group + 1)
        yield store("lock", "")
        return group

    # ---- what processes do ---------------------------------------------------------------------------------------------

    def take(self, me, current, mine):
        member, current, mine = yield from self.member_alloc(me, current, mine)
        if member is None:
            return None, current, mine
        place = yield load(("place", *member))
        if place != NOBODY:
            yield fail(f"{me} takes a member that {place} has")
        yield store(("place", *member), me)
        yield store(("building", me), None)
        return member, current, mine

    def give(self, me, member, box=None):
        """`freeing` names the member, as `slot_free` does, from before its state is free until its bit is cleared."""
        yield store(("freeing", me), member)
        yield stores((("place", *member), NOBODY), *([(("box", box), None)] if box else []))
        yield from self.group_clear(me, *member)
        yield store(("freeing", me), None)

    def taker(self, me, to, times):
        """Allocate members, and have another process free them, or free them itself."""
        current, mine = None, ()
        for _time in range(times):
            member, current, mine = yield from self.take(me, current, mine)
            if member is None:
                continue
            if to:
                yield when(is_empty_box, to)
                yield store(("box", to), member)
            else:
                yield from self.give(me, member)

    def releaser(self, me):
        while True:
            yield when(is_full_box, me)
            member = yield load(("box", me))
            yield from self.give(me, member, me)

    # ---- recovery.pxd ------------------------------------------------------------------------------------------------

    def recover_process(self, me, dead):
        if (yield load("lock")) == dead:
            yield from self.lock_acquire(me)
            yield store("lock", "")
        for note in ("building", "freeing"):
            member = yield load((note, dead))
            if member is not None:
                yield from self.recover_member(me, member, dead)
            yield store((note, dead), None)
        for group in range(self.groups):
            for bit in range(self.size):
                if (yield load(("place", group, 1 << bit))) == dead:
                    yield from self.give(me, (group, 1 << bit))
        high = yield load("high")
        for group in range(self.groups):
            if group < high:
                yield from self.orphan(me, group, dead)
        yield exchange(("entry", dead), FREE)

    def recover_member(self, me, member, dead):
        """Free a member that the dead process named, if it has no place and no other process names it."""
        used = yield load(("used", member[0]))
        if not used & member[1] or (yield load(("place", *member))) != NOBODY:
            return
        for process in ("P", "R"):
            if process != dead and (yield load(("building", process))) == member:
                return
        if (yield load(("place", *member))) == NOBODY:
            yield from self.group_clear(me, *member)

    def orphan(self, me, group, dead):
        owner = yield load(("owner", group))
        used = yield load(("used", group))
        if owner == NOBODY or (owner != dead and used & ~CLAIMED):
            return
        yield from self.lock_acquire(me)
        if (yield load(("owner", group))) == dead:
            yield store(("owner", group), ORPHAN)
            yield clear(("used", group), CURRENT)
        yield cas(("used", group), 0, CLAIMED)
        yield from self.group_free_claimed(group)
        yield store("lock", "")

    def supervise(self, me, mortals):
        while True:
            yield when(needs_recovery, mortals)
            if (yield load(("dead", "Q"))):
                member = yield load(("box", "Q"))  # what it would have given back
                if member is not None:
                    yield from self.give(me, member, "Q")
            for process in mortals:
                if (yield load(("dead", process))) and (yield load(("entry", process))) != FREE:
                    yield from self.recover_process(me, process)


def is_empty_box(words, process):
    return words["box", process] is None


def is_full_box(words, process):
    return words["box", process] is not None


def needs_recovery(words, processes):
    if words["dead", "Q"] and words["box", "Q"] is not None:
        return True
    return any(words["dead", process] and words["entry", process] != FREE for process in processes)


def lost_groups(words, model):
    """Find a group that no process can allocate from any more, or two can.

    Find a member, too, that is allocated, and no process's.
    """
    for group in range(words["high"]):
        used, owner, listed = words["used", group], words["owner", group], words["free"].count(group)
        if listed > 1 or (listed == 1) != (owner == NOBODY):
            return f"group {group} of {owner or 'no process'} is {listed} times on the list of free ones"
        if owner not in (NOBODY, ORPHAN) and words["dead", owner]:
            return f"group {group} is a dead process's"
        if owner == ORPHAN or (owner == NOBODY and not used & CLAIMED):
            return f"group {group} of {owner or 'no process'} has {used:#x}"
        if owner != NOBODY and not used & CURRENT:
            return f"group {group} is empty, and stays {owner}'s"
        for bit in range(model.size):
            if used >> bit & 1:
                return f"a member of group {group} stays taken"
    return None


def groups(without=(), mortal=(), deaths=0, count=2, size=1, takers=("P", "R"), times=2):
    """P allocates members that Q frees, R allocates and frees its own; each from groups of its own."""
    model = Groups(count, size, without)
    names = ("P", "R", "Q", ZYGOTE)
    programs = {"P": functools.partial(model.taker, "P", "Q", times), "Q": functools.partial(model.releaser, "Q")}
    if "R" in takers:
        programs["R"] = functools.partial(model.taker, "R", "", times)
    if deaths:
        programs[ZYGOTE] = functools.partial(model.supervise, ZYGOTE, mortal)
    looks = (functools.partial(lost_groups, model=model),)
    return Scenario(model.words(names), programs, mortal=mortal, deaths=deaths, at_end=looks)
