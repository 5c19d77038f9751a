"""The protocol of `kernels/runtime/PROTOCOL.md` as programs for `explorer.py`: the steps of the .pxi files, by their names.

A slot's state is (generation, status, owner); its holds and its giver's mark are one number, mark above holds; an edge is
named by (task, input's number). What is not here: values, blocks, extents, and more than one level of an input's bits.
`Protocol.without` names what is left out of the protocol, for the tests that want to see it fail.
"""

from __future__ import annotations

from explorer import add, cas, choose, clear, exchange, exchanges, fail, load, put, set_bits, spawn, store, stores, when

FREE, WAITING, READY, RUNNING, DONE, FAILED = "free", "waiting", "ready", "running", "done", "failed"
LEAVING = "leaving"  # its owner gives it back
UNFINISHED = (WAITING, READY, RUNNING)
FINISHED = (DONE, FAILED)

CREATOR, RUN, EDGES, PENDING, BURIAL, COUNT = 0x80, 0x40, 0x20, 0x10, 0x08, 0x07
HOLDS = 0xFF
MARK_SHIFT = 8

CLOSED = "closed"  # a waiter list
OPEN, LANE_DEAD = "open", "lane is dead"
NO_INPUT = "no input"
GONE = "given back"  # what a word of a block holds that is nobody's any more
NOBODY = ""
#: What a process writes about itself; None: nothing.
NOTES = ("building", "promoting", "rotating", "freeing", "giving_edge", "giving_slot", "current")
ZYGOTE = "zygote"


class Protocol:
    """Programs over one set of slots and lanes; every method is a generator that process `me` runs."""

    def __init__(
        self,
        slots,
        processes,
        lanes=(0,),
        ordered=(),
        ring=2,
        marks=2,
        inputs=None,
        without=(),
        serves=None,
        earlier=None,
        per_word=0,
    ):
        self.slots = slots  # how many
        self.processes = processes
        self.lanes = lanes
        self.ordered = ordered
        self.ring = ring  # positions
        self.marks = marks  # numbers that a mark can tell apart
        self.inputs = inputs or {}  # task -> the slots it waits for
        self.serves = serves or {}  # process -> lane, of an instance's process
        self.earlier = earlier or {}  # (slot, generation) -> the call of the same lane that must have ended before it begins
        self.per_word = per_word  # of an input's bits in a word of level 0; 0: there is one level only
        self.without = frozenset(without)

    def has(self, what):
        return what not in self.without

    def barrier(self, what, word, value):
        """An exchange that is there for what it makes the loads after it wait for; without `what` a plain store."""
        return exchange(word, value) if self.has(what) else store(word, value)

    def words(self):
        words = {}
        for slot in range(self.slots):
            words.update(self.slot_words(slot))
        for lane in self.lanes:
            words.update({("head", lane): 0, ("tail", lane): 0, ("lane state", lane): OPEN})
            words.update((("ring", lane, place), (0,)) for place in range(self.ring))
        for process in self.processes:
            words.update(((note, process), None) for note in NOTES)
            words.update({("giving", process): 0, ("given", process): 0})
            words["entry", process] = "live"
        return words

    def slot_words(self, slot):
        words = {
            ("state", slot): (0, FREE, NOBODY),
            ("holds", slot): 0,
            ("waiters", slot): None,
            ("used", slot): 0,
            ("lane", slot): None,
            ("lane_tail", slot): 0,
            ("creator", slot): NOBODY,
            ("started", slot): 0,
            ("begun", slot): 0,  # how often this use of it has begun to run: nobody of the protocol reads it
            ("watched", slot): 0,
            ("inputs", slot): 0,
            ("orphaned", slot): 0,
            ("top", slot): GONE,
        }
        if self.per_word and slot in self.inputs:
            words.update((word, frozenset()) for word, _ in self.all_missing(slot)[:-1])
        for number in range(len(self.inputs.get(slot, ()))):
            words.update({("next", slot, number): GONE, ("input", slot, number): NO_INPUT})
        return words

    def bits_of(self, task):
        """An input's bit each, and the submitter's own."""
        return (*range(len(self.inputs[task])), "own")

    def word_of(self, task, bit):
        """Which word of level 0 has a bit."""
        return self.bits_of(task).index(bit) // self.per_word

    def all_missing(self, task):
        """What `inputs_fill` writes: pairs of words and values."""
        bits = self.bits_of(task)
        if not self.per_word:
            return [(("top", task), frozenset(bits))]
        numbers = range(0, len(bits), self.per_word)
        low = [(("low", task, at // self.per_word), frozenset(bits[at : at + self.per_word])) for at in numbers]
        return [*low, (("top", task), frozenset(range(len(low))))]

    # ---- slots.pxi, groups.pxi -----------------------------------------------------------------------------------------

    def slot_take(self, me, index):
        """`member_take`: of this process's own group, so that nobody else takes it."""
        yield when(is_vacant, index)
        if self.has("building"):
            yield store(("building", me), index)
        yield exchange(("used", index), 1)  # a cas of the group's word

    def slot_prepare(self, me, index):
        yield stores((("waiters", index), None), (("started", index), 0), (("begun", index), 0), (("watched", index), 0))
        if self.has("creator before holds"):
            yield store(("creator", index), me)
        yield put(("holds", index), HOLDS, CREATOR | RUN)
        if not self.has("creator before holds"):
            yield store(("creator", index), me)
        if not self.has("the mark stays"):
            yield put(("holds", index), ~HOLDS, 0)

    def slot_return(self, me, index):
        """Of a slot that this process has claimed to free, or that is still FREE."""
        outer = yield from self.free_note(me, index)
        has_inputs = yield load(("inputs", index))
        yield from self.give_back_inputs(me, index)
        if has_inputs:
            yield store(("inputs", index), 0)
            yield from self.block_free(index)
        generation, status, _ = yield load(("state", index))
        if status in UNFINISHED:
            yield fail(f"slot {index} is freed while it is {status}")
        yield store(("state", index), (generation + 1, FREE, me if self.has("a claim before freeing") else NOBODY))
        if not (yield exchange(("used", index), 0)):
            yield fail(f"slot {index} is given back twice")
        yield from self.free_noted(me, outer)

    def slot_leave(self, me, index, generation):
        """Nobody holds the slot any more: whoever claims it gives it back. `generation`: of when it was held still."""
        if not self.has("a claim before freeing"):
            yield from self.slot_return(me, index)
            return
        state = yield load(("state", index))
        if self.has("the generation of what is freed") and state[0] != generation:
            return
        if state[1] in FINISHED and (yield cas(("state", index), state, (state[0], LEAVING, me))):
            yield from self.slot_return(me, index)

    def block_free(self, index):
        """Nobody may read what lay in the block of inputs from here on."""
        pairs = [(name, GONE) for name, _ in self.all_missing(index)]
        for number in range(len(self.inputs[index])):
            pairs += [(("next", index, number), GONE), (("input", index, number), NO_INPUT)]
        yield exchanges(*pairs)  # its bit is cleared in this step

    def free_note(self, me, index):
        if self.has("a claim before freeing"):
            return None
        outer = yield load(("freeing", me))
        yield store(("freeing", me), index)
        return outer

    def free_noted(self, me, outer):
        if not self.has("a claim before freeing"):
            yield store(("freeing", me), outer)

    def generation_of(self, index):
        if not self.has("a claim before freeing"):
            return None
        return (yield load(("state", index)))[0]

    def release_bits(self, me, index, bits):
        outer = yield from self.free_note(me, index)
        generation = yield from self.generation_of(index)
        before = (yield clear(("holds", index), bits)) & HOLDS
        if before & bits and not before & ~bits:
            yield from self.slot_leave(me, index, generation)
        yield from self.free_noted(me, outer)

    def release_count(self, me, index):
        yield from self.next_giving(me, index)
        yield from self.drop_count(me, index, me)

    def next_giving(self, me, index):
        """Numbers the drop anew, by a number that the slot's mark does not show; the slot is named first."""
        giving = yield load(("giving", me))
        if not self.has("the slot of a mark"):
            yield store(("giving", me), giving + 1)
            yield store(("giving_slot", me), index)
            return
        shown = (yield load(("holds", index))) >> MARK_SHIFT
        giving += 1
        if self.has("a number not shown") and self.giver_of(me, giving) == shown:
            giving += 1
        yield store(("giving_slot", me), index)
        yield store(("giving", me), giving)

    def drop_count(self, me, index, giver):
        outer = yield from self.free_note(me, index)
        generation = yield from self.generation_of(index)
        giving = yield load(("giving", giver))
        mark = self.giver_of(giver, giving)
        while True:
            holds = yield load(("holds", index))
            if self.has("given"):
                yield from self.drop_was_done(me, index, holds >> MARK_SHIFT)
            if not holds & COUNT:
                yield fail(f"a hold on slot {index} is given back twice")
            if (yield cas(("holds", index), holds, mark << MARK_SHIFT | (holds & HOLDS) - 1)):
                break
        yield store(("giving_edge", giver), None)
        if holds & HOLDS == 1:
            yield from self.slot_leave(me, index, generation)
        yield from self.free_noted(me, outer)

    def giver_of(self, process, giving):
        return self.processes.index(process) * self.marks + giving % self.marks + 1

    def drop_was_done(self, me, index, mark):
        process = self.processes[(mark - 1) // self.marks] if mark else me
        if process == me:
            return
        giving = yield load(("giving", process))
        if self.giver_of(process, giving) != mark:
            return
        if self.has("the slot of a mark"):
            if (yield load(("giving_slot", process))) != index:
                return
            if (yield load(("holds", index))) >> MARK_SHIFT != mark:
                return
        given = yield load(("given", process))
        while given < giving:
            if (yield cas(("given", process), given, giving)):
                break
            given = yield load(("given", process))

    # ---- lanes.pxi -----------------------------------------------------------------------------------------------------

    def hint_of(self, position, index, state):
        if self.has("the lane of a hint"):
            return (position // self.ring, index)
        return (position // self.ring, index, state[0] % 2)

    def is_empty(self, entry):
        return len(entry) == 1

    def lane_push(self, me, lane, index, state):
        """False when the ring of an ordered lane is full."""
        while True:
            tail = yield load(("tail", lane))
            entry = yield load(("ring", lane, tail % self.ring))
            if entry[0] == tail // self.ring:
                if not self.is_empty(entry):
                    yield cas(("tail", lane), tail, tail + 1)
                elif (yield cas(("ring", lane, tail % self.ring), entry, self.hint_of(tail, index, state))):
                    yield cas(("tail", lane), tail, tail + 1)
                    return True
            elif entry[0] == tail // self.ring + 1:
                yield cas(("tail", lane), tail, tail + 1)
            elif (yield load(("tail", lane))) == tail and not (yield from self.lane_trim(me, lane)):
                if lane in self.ordered:
                    return False
                yield from self.lane_rotate(me, lane)

    def lane_rotate(self, me, lane):
        head = yield load(("head", lane))
        entry = yield load(("ring", lane, head % self.ring))
        outer = yield load(("rotating", me))
        if entry[0] != head // self.ring or self.is_empty(entry):
            return
        index = entry[1]
        state = yield load(("state", index))
        if (yield from self.is_void(lane, head, entry, state)):
            return
        yield store(("rotating", me), index)
        if (yield from self.lane_drop(lane, head, entry)):
            yield from self.lane_push(me, lane, index, state)
        yield store(("rotating", me), outer)

    def lane_trim(self, me, lane):
        count = 0
        while True:
            head = yield load(("head", lane))
            entry = yield load(("ring", lane, head % self.ring))
            if entry[0] != head // self.ring or self.is_empty(entry):
                return count
            state = yield load(("state", entry[1]))
            if not (yield from self.is_void(lane, head, entry, state)):
                return count
            dropped = yield from self.lane_drop(lane, head, entry)
            count += dropped

    def is_void(self, lane, position, entry, state):
        if state[1] != READY and not (state[1] == WAITING and lane in self.ordered):
            return True
        return not (yield from self.is_valid(lane, position, entry, state))

    def is_valid(self, lane, position, entry, state):
        """Whether a hint is one of the slot as of `state`, which was read before."""
        if not self.has("the lane of a hint"):
            return state[0] % 2 == entry[2]
        if (yield load(("lane", entry[1]))) != lane:
            return False
        if not self.has("the tail of a hint"):
            return True
        return (yield load(("lane_tail", entry[1]))) <= position

    def lane_drop(self, lane, head, entry):
        dropped = yield cas(("ring", lane, head % self.ring), entry, (head // self.ring + 1,))
        yield cas(("head", lane), head, head + 1)
        return dropped

    def lane_claim(self, me, lane):
        """A claimed slot, or None."""
        while True:
            head = yield load(("head", lane))
            entry = yield load(("ring", lane, head % self.ring))
            if entry[0] == head // self.ring + 1:
                yield cas(("head", lane), head, head + 1)
                continue
            if entry[0] != head // self.ring:
                continue
            if self.is_empty(entry):
                return None
            index = entry[1]
            state = yield load(("state", index))
            if not self.has("claim before drop"):
                yield from self.lane_drop(lane, head, entry)
            if state[1] in (WAITING, READY) and (yield from self.is_valid(lane, head, entry, state)):
                if state[1] == READY:
                    if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                        yield from self.lane_drop(lane, head, entry)
                        return index
                    continue
                if lane in self.ordered and self.has("a waiting one stops its lane"):
                    return None
            yield from self.lane_drop(lane, head, entry)

    def claim_here(self, me, index):
        """`Serving._claim_here`: out of the middle of its lane."""
        state = yield load(("state", index))
        lane = yield load(("lane", index))
        if state[1] != READY or lane in self.ordered:
            return False
        if (yield cas(("state", index), state, (state[0], RUNNING, me))):
            yield from self.lane_trim(me, lane)
            return True
        return False

    # ---- calls.pxi -----------------------------------------------------------------------------------------------------

    def submit(self, me, index, lane=0):
        """`Calls.call`, from `_new_slot` on."""
        yield from self.slot_take(me, index)
        yield from self.slot_prepare(me, index)
        yield from self.publish(me, index, lane)

    def publish(self, me, index, lane):
        inputs = self.inputs.get(index, ())
        state = yield load(("state", index))
        generation = state[0]
        yield store(("lane", index), lane)
        tail = yield load(("tail", lane))
        yield store(("lane_tail", index), tail)
        if inputs:
            yield from self.add_inputs(me, index)
            yield set_bits(("holds", index), EDGES)
        queued = lane in self.ordered or not inputs
        if queued and not self.has("state before hint"):
            yield from self.lane_push(me, lane, index, state)
        yield exchange(("state", index), (generation, WAITING if inputs else READY, NOBODY))
        if queued and self.has("state before hint"):
            alive = lane not in self.ordered or (yield load(("lane state", lane))) != LANE_DEAD
            if alive and not (yield from self.lane_push(me, lane, index, state)):
                yield fail("the ring of an ordered lane is full")
        yield store(("building", me), None)
        if inputs:
            yield from self.stand_on_inputs(me, index)
        looks = lane in self.ordered and self.has("a look at the lane after publishing")
        if looks and (yield load(("lane state", lane))) == LANE_DEAD:
            yield from self.fail_unstarted(me, index)

    def add_inputs(self, me, index):
        inputs = self.inputs[index]
        words = [(("next", index, number), None) for number in range(len(inputs))]
        yield stores((("orphaned", index), 0), *self.all_missing(index), *words)
        yield store(("inputs", index), 1)
        for number, input in enumerate(inputs):
            if self.has("pending"):
                yield add(("holds", input), PENDING + 1)
                yield store(("input", index, number), input)
                yield from self.release_bits(me, input, PENDING)
            else:
                yield add(("holds", input), 1)
                yield store(("input", index, number), input)

    def stand_on_inputs(self, me, index):
        for number, input in enumerate(self.inputs[index]):
            if not (yield from self.stand_on(me, input, (index, number))):
                state = yield load(("state", input))
                if state[1] == FAILED:
                    yield from self.fail_unstarted(me, index)
                yield from self.inputs_clear(me, index, number)
        yield from self.input_arrived(me, index, "own", ())

    def drop(self, me, index):
        """The creator's future goes."""
        yield from self.release_bits(me, index, CREATOR)

    # ---- inputs.pxi ----------------------------------------------------------------------------------------------------

    def inputs_clear(self, me, task, bit):
        """True to the one who clears the last."""
        if not self.per_word:
            return (yield from self.clear_from(me, task, ((("top", task), bit),)))
        at = self.word_of(task, bit)
        return (yield from self.clear_from(me, task, ((("low", task, at), bit), (("top", task), at))))

    def clear_from(self, me, task, way):
        """`way`: (word, bit of it), from below."""
        for name, bit in way:
            while True:
                word = yield load(name)
                if word == GONE:
                    yield fail(f"{me} looks at the inputs of {task}, which are given back")
                if name[0] == "low" and not self.has("who cleared a word"):
                    if (yield cas(name, word, word - {bit})):
                        left = word - {bit}
                        break
                    continue
                if isinstance(word, tuple) or bit not in word:
                    return False
                left = word - {bit}
                if (yield cas(name, word, left or ("all there", me))):
                    break
            if left:
                return False
        return True

    def clear_again(self, me, task, dead):
        """Goes on above the words whose last bit a dead process cleared."""
        if self.per_word and self.has("who cleared a word"):
            for name, _ in self.all_missing(task)[:-1]:
                way = ((("top", task), name[2]),)
                if (yield load(name)) == ("all there", dead) and (yield from self.clear_from(me, task, way)):
                    return True
        return (yield load(("top", task))) == ("all there", dead)

    def give_back_inputs(self, me, index):
        if not (yield load(("inputs", index))):
            return
        for number in range(len(self.inputs[index])):
            if (yield load(("input", index, number))) != NO_INPUT:
                yield from self.give_back_input(me, index, number)

    def give_back_input(self, me, index, number):
        named = yield load(("input", index, number))
        if named == NO_INPUT:
            return
        yield from self.next_giving(me, named)
        yield store(("giving_edge", me), (index, number))
        if self.has("an edge by exchange"):
            held = yield exchange(("input", index, number), NO_INPUT)
        else:
            held = yield load(("input", index, number))
            yield store(("input", index, number), NO_INPUT)
        if held != NO_INPUT:
            yield from self.drop_count(me, held, me)
        yield store(("giving_edge", me), None)

    def promote(self, me, index, state, kept):
        """`kept`: () or (True,) if this process may keep a task. Gives back the task if it keeps it."""
        if state[1] != WAITING:
            return None
        lane = yield load(("lane", index))
        if kept and lane == 0:
            if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                return index
            return None
        if self.has("promoting"):
            yield store(("promoting", me), index)
        if (yield cas(("state", index), state, (state[0], READY, NOBODY))) and lane not in self.ordered:
            yield from self.lane_push(me, lane, index, state)
        yield store(("promoting", me), None)
        return None

    def input_arrived(self, me, task, bit, kept):
        if (yield from self.inputs_clear(me, task, bit)):
            return (yield from self.all_arrived(me, task, kept))
        return None

    def all_arrived(self, me, task, kept):
        state = yield load(("state", task))
        found = yield from self.promote(me, task, state, kept)
        state = yield load(("state", task))
        if state[1] in FINISHED:
            yield from self.give_back_inputs(me, task)
        yield from self.release_bits(me, task, EDGES)
        return found

    def stand_on(self, me, input, edge):
        head = yield load(("waiters", input))
        while head != CLOSED:
            yield store(("next", *edge), head)
            if (yield cas(("waiters", input), head, edge)):
                return True
            head = yield load(("waiters", input))
        return False

    def stands_on(self, me, input, edge):
        at = yield load(("waiters", input))
        while at not in (CLOSED, None, edge):
            at = yield load(("next", *at))
            if self.has("a look at the list while reading it") and (yield load(("waiters", input))) == CLOSED:
                return False
            if at == GONE:
                yield fail(f"{me} goes on from an edge that is given back")
        return at == edge

    # ---- finishing.pxi -------------------------------------------------------------------------------------------------

    def write_result(self, me, index):
        yield store(("started", index), 1)

    def fail_with(self, me, index):
        """True if this process has claimed the task to fail it."""
        state = yield load(("state", index))
        while state[1] == WAITING:
            if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                yield from self.write_result(me, index)
                return True
            state = yield load(("state", index))
        return False

    def fail_unstarted(self, me, index):
        state = yield load(("state", index))
        while state[1] in (WAITING, READY):
            if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                yield from self.write_result(me, index)
                yield from self.finish(me, index, FAILED)
                return
            state = yield load(("state", index))

    def finish(self, me, index, status, kept=()):
        """Gives back a task that this process keeps, if any."""
        found = None
        todo = (index,)
        while todo:
            index = todo[-1]
            more, one = yield from self.finish_one(me, index, status, kept if found is None else ())
            found = one if found is None else found
            todo = todo[:-1] + more
        return found

    def finish_one(self, me, index, status, kept):
        if not self.has("HOLD_RUN last"):
            yield from self.release_bits(me, index, RUN)
        generation, _, _ = yield load(("state", index))
        yield self.barrier("finished by exchange", ("state", index), (generation, status, me))
        failed, found = yield from self.tell_dependents(me, index, status, kept, True)
        if not (yield load(("holds", index))) & EDGES:
            yield from self.give_back_inputs(me, index)
        if self.has("HOLD_RUN last"):
            yield from self.release_bits(me, index, RUN)
        return failed, found

    def tell_dependents(self, me, index, status, kept, failing):
        if self.has("closed by exchange"):
            at = yield exchange(("waiters", index), CLOSED)
        else:
            at = yield load(("waiters", index))
            yield store(("waiters", index), CLOSED)
        failed, found = (), None
        while at not in (CLOSED, None):
            if self.has("the next edge before the bit"):
                following = yield load(("next", *at))
            task, bit = at
            if status == FAILED and failing and (yield from self.fail_with(me, task)):
                failed = (*failed, task)
            one = yield from self.input_arrived(me, task, bit, kept if found is None else ())
            found = one if found is None else found
            if not self.has("the next edge before the bit"):
                following = yield load(("next", *at))
            if following == GONE:
                yield fail(f"{me} reads an edge of {task} that is given back")
            at = following
        return failed, found

    # ---- serving.pxi ---------------------------------------------------------------------------------------------------

    def run(self, me, index, status=DONE, kept=()):
        """`Serving._run`: gives back a task that it keeps."""
        lane = yield load(("lane", index))
        if lane != self.serves.get(me, 0):
            yield fail(f"{me} runs slot {index}, a call of lane {lane}")
        if self.earlier:
            yield from self.check_order(me, index)
        yield store(("started", index), 1)
        yield exchange(("current", me), index)
        if (yield add(("begun", index), 1)):
            yield fail(f"slot {index} runs twice")
        for number, input in enumerate(self.inputs.get(index, ())):
            if (yield load(("input", index, number))) != input:
                yield fail(f"slot {index} runs without its hold on {input}")
            state = yield load(("state", input))
            if state[1] not in FINISHED:
                yield fail(f"slot {index} runs while its input {input} is {state[1]}")
        yield exchange(("current", me), None)
        return (yield from self.finish(me, index, status, kept))

    def check_order(self, me, index):
        generation, _, _ = yield load(("state", index))
        other = self.earlier.get((index, generation))
        if other is None:
            return
        state = yield load(("state", other[0]))
        if state[0] == other[1] and (state[1] in (WAITING, READY) or state[1:] == (RUNNING, me)):
            yield fail(f"slot {index} begins before slot {other[0]}, which was submitted before it, has ended")

    def serve(self, me, keeps=False, fails=()):
        """A worker's life, without sleep: it waits until there is something in its lane. `fails`: slots whose calls fail."""
        lane = self.serves.get(me, 0)
        kept = None
        while True:
            index = kept
            kept = None
            if index is None:
                yield when(self.is_worth_a_look, lane)
                index = yield from self.lane_claim(me, lane)
            if index is not None:
                kept = yield from self.run(me, index, FAILED if index in fails else DONE, (True,) if keeps else ())

    def is_worth_a_look(self, words, lane):
        """Whether `lane_claim` would do anything but return."""
        head = words["head", lane]
        entry = words["ring", lane, head % self.ring]
        if entry[0] == head // self.ring and self.is_empty(entry):
            return False
        if lane not in self.ordered or self.is_empty(entry) or not self.has("a waiting one stops its lane"):
            return True
        return words["state", entry[1]][1] != WAITING or not self.is_valid_now(words, lane, head, entry)

    def is_valid_now(self, words, lane, position, entry):
        if not self.has("the lane of a hint"):
            return words["state", entry[1]][0] % 2 == entry[2]
        return words["lane", entry[1]] == lane and words["lane_tail", entry[1]] <= position

    # ---- burial.pxi ----------------------------------------------------------------------------------------------------

    def bury(self, me, dead):
        """`Supervision.bury`: its steps 2, 3, 4, 6, 8 and 10. The others have scenarios of their own."""
        yield from self.bury_giving(me, dead)
        yield from self.bury_building(me, dead)
        for index in range(self.slots):
            state = yield load(("state", index))
            if state[1] == RUNNING and state[2] == dead:
                yield from self.bury_task(me, index)
        if self.has("finish_again"):
            for index in range(self.slots):
                yield from self.finish_again(me, index, dead)
        if self.has("repair_waiting"):
            for index in self.inputs:
                yield from self.repair_waiting(me, index, dead)
        yield from self.queue_again(me, "promoting", dead)
        yield from self.queue_again(me, "rotating", dead)
        if self.has("a claim before freeing"):
            for index in range(self.slots):
                yield from self.bury_leaving(me, index, dead)
        if dead == ZYGOTE:
            for index in range(self.slots):
                if (yield load(("holds", index))) & BURIAL:
                    yield from self.release_bits(me, index, BURIAL)
            return
        for index in range(self.slots):
            if (yield load(("holds", index))) & CREATOR and (yield load(("creator", index))) == dead:
                yield from self.release_bits(me, index, CREATOR)
        if dead in self.serves:
            yield from self.bury_lane(me, self.serves[dead])
        yield exchange(("entry", dead), FREE)

    def bury_lane(self, me, lane):
        yield self.barrier("a lane dead by cas", ("lane state", lane), LANE_DEAD)
        for index in range(self.slots):
            state = yield load(("state", index))
            if state[1] not in (WAITING, READY) or (yield load(("lane", index))) != lane:
                continue
            if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                yield from self.write_result(me, index)
                yield from self.finish(me, index, FAILED)

    def hold_again(self, me, index, state):
        more = BURIAL if self.has("a bit for the burial's hold") else 1
        holds = yield load(("holds", index))
        while holds & HOLDS:
            if (yield cas(("holds", index), holds, holds | BURIAL if more == BURIAL else holds + 1)):
                now = yield load(("state", index))
                if now[0] == state[0]:
                    return True
                yield from self.let_go(me, index)
                return False
            holds = yield load(("holds", index))
        return False

    def let_go(self, me, index):
        """Gives back what `hold_again` took."""
        if self.has("a bit for the burial's hold"):
            yield from self.release_bits(me, index, BURIAL)
        else:
            yield from self.release_count(me, index)

    def finish_again(self, me, index, dead):
        if self.has("holds before the state"):
            holds = yield load(("holds", index))
            state = yield load(("state", index))
        else:
            state = yield load(("state", index))
            holds = yield load(("holds", index))
        if not holds & RUN or state[1] not in FINISHED or state[2] != dead:
            return
        yield from self.tell_dependents(me, index, DONE, (), False)
        if not (yield load(("holds", index))) & EDGES:
            yield from self.give_back_inputs(me, index)
        yield from self.release_bits(me, index, RUN)

    def repair_waiting(self, me, index, dead):
        state = yield load(("state", index))
        if state[1] == FREE or not (yield load(("holds", index))) & EDGES:
            return
        if not (yield from self.hold_again(me, index, state)):
            return
        for number in range(len(self.inputs[index])):
            at = yield load(("input", index, number))
            if at == NO_INPUT:
                continue
            input_state = yield load(("state", at))
            if input_state[2] != dead:
                continue
            if input_state[1] == FAILED:
                yield from self.fail_unstarted(me, index)
            yield from self.input_arrived(me, index, number, ())
        creator = yield load(("creator", index))
        if self.has("adopt") and (creator == dead or (yield load(("orphaned", index)))):
            yield from self.adopt(me, index)
        if self.has("all there by the dead") and (yield from self.clear_again(me, index, dead)):
            yield from self.all_arrived(me, index, ())
        yield from self.let_go(me, index)

    def adopt(self, me, index):
        if not (yield from self.is_missing(index, "own")):
            return
        yield store(("orphaned", index), 1)
        yield from self.fail_unstarted(me, index)
        for number in range(len(self.inputs[index])):
            if not (yield from self.is_missing(index, number)):
                continue
            input = yield load(("input", index, number))
            if (yield from self.stands_on(me, input, (index, number))):
                continue
            if (yield from self.stand_on(me, input, (index, number))):
                continue
            if self.has("is_walked") and not (yield from self.is_walked(input)):
                return
            yield from self.input_arrived(me, index, number, ())
        yield from self.input_arrived(me, index, "own", ())

    def is_missing(self, index, bit):
        word = yield load(("low", index, self.word_of(index, bit)) if self.per_word else ("top", index))
        if word == GONE:
            yield fail(f"the inputs of {index} are looked at, which are given back")
        return not isinstance(word, tuple) and bit in word

    def is_walked(self, input):
        while (yield load(("holds", input))) & RUN:
            if (yield choose("goes on", "time is up")) == "time is up":
                return False
        return True

    def bury_task(self, me, index):
        state = yield load(("state", index))
        lane = yield load(("lane", index))
        started = yield load(("started", index))
        if (started and self.has("started")) or lane in self.ordered:
            yield from self.write_result(me, index)
            yield from self.finish(me, index, FAILED)
            return
        yield store(("promoting", me), index)
        if (yield load(("inputs", index))) and self.has("waiting again"):
            yield self.barrier("waiting again by exchange", ("state", index), (state[0], WAITING, NOBODY))
            if self.has("a look after it waits again"):
                yield from self.promote_if_there(me, index)
            yield store(("promoting", me), None)
            return
        yield exchange(("state", index), (state[0], READY, NOBODY))
        yield from self.lane_push(me, lane, index, state)
        yield store(("promoting", me), None)

    def promote_if_there(self, me, index):
        """Whoever cleared the last bit meanwhile found the task claimed."""
        state = yield load(("state", index))
        inputs = yield load(("inputs", index))
        if state[1] != WAITING or not inputs:
            return
        top = yield load(("top", index))
        if isinstance(top, tuple):
            yield from self.promote(me, index, state, ())

    def bury_giving(self, me, dead):
        edge = yield load(("giving_edge", dead))
        if edge is None:
            return
        index = yield load(("giving_slot", dead))
        task = edge[0]
        if (yield load(("input", *edge))) == NO_INPUT:
            giver = (yield load(("holds", index))) >> MARK_SHIFT
            giving = yield load(("giving", dead))
            if giver != self.giver_of(dead, giving) and (yield load(("given", dead))) != giving:
                yield from self.drop_count(me, index, dead)
        yield store(("giving_edge", dead), None)
        if not self.has("a claim before freeing"):
            yield from self.bury_freeing(me, task, dead)

    def bury_building(self, me, dead):
        building = yield load(("building", dead))
        freeing = yield load(("freeing", dead))
        yield from self.bury_pending(me, dead, building)
        if building is not None:
            state = yield load(("state", building))
            if state[1] == FREE and (yield load(("used", building))):
                yield from self.slot_return(me, building)
            elif state[1] == READY:
                lane = yield load(("lane", building))
                state = yield load(("state", building))
                yield from self.lane_push(me, lane, building, state)
        yield store(("building", dead), None)
        if freeing is not None and not self.has("a claim before freeing"):
            yield from self.bury_freeing(me, freeing, dead)
        yield store(("freeing", dead), None)

    def bury_freeing(self, me, index, dead):
        """A slot that the dead process had named as one that it might free."""
        state = yield load(("state", index))
        for _look in range(2):
            if not (yield from self.is_nobodys(index, state)):
                return
            if (yield from self.is_named(index, dead)):
                return
        if (yield load(("state", index))) != state:
            return
        if state[1] == FREE:
            yield exchange(("used", index), 0)
        else:
            yield from self.slot_return(me, index)

    def bury_leaving(self, me, index, dead):
        """A slot that nobody holds any more, if nobody living has claimed it to free it."""
        state = yield load(("state", index))
        if state[1] == LEAVING and state[2] == dead:
            yield from self.slot_return(me, index)
        elif state[1] in FINISHED:
            if not (yield load(("holds", index))) & HOLDS:
                yield from self.slot_leave(me, index, state[0])
        elif state[1] == FREE and state[2] == dead:
            yield from self.bury_free(me, index, state)

    def bury_free(self, me, index, state):
        """The dead process had freed it, and perhaps not cleared its bit; if somebody has taken it since, he names it."""
        if not (yield load(("used", index))):
            return
        for process in self.processes:
            if (yield load(("building", process))) == index:
                return
        if (yield load(("state", index))) == state:
            yield exchange(("used", index), 0)

    def is_nobodys(self, index, state):
        if state[1] == FREE:
            return (yield load(("used", index))) == 1
        return state[1] in FINISHED and not (yield load(("holds", index))) & HOLDS

    def is_named(self, index, dead):
        for process in self.processes:
            if process == dead:
                continue
            if (yield load(("building", process))) == index or (yield load(("freeing", process))) == index:
                return True
        return False

    def bury_pending(self, me, dead, building):
        for index in range(self.slots):
            if not (yield load(("holds", index))) & PENDING or (yield load(("creator", index))) != dead:
                continue
            written = False
            if building is not None and (yield load(("inputs", building))):
                for number in range(len(self.inputs[building])):
                    if (yield load(("input", building, number))) == index:
                        written = True
            if self.has("one step for what is pending"):
                yield from self.drop_pending(me, index, written)
            else:
                if not written:
                    yield from self.release_count(me, index)
                yield from self.release_bits(me, index, PENDING)

    def drop_pending(self, me, index, written):
        while True:
            holds = yield load(("holds", index))
            if (yield cas(("holds", index), holds, holds - PENDING - (not written))):
                return

    def queue_again(self, me, note, dead):
        index = yield load((note, dead))
        if index is None:
            return
        state = yield load(("state", index))
        lane = yield load(("lane", index))
        if state[1] == READY and lane not in self.ordered:
            yield from self.lane_push(me, lane, index, state)
        if self.has("a look after it waits again"):
            yield from self.promote_if_there(me, index)
        yield store((note, dead), None)

    def supervise(self, me, mortals, new=(), before=None):
        """A zygote's life: buries whoever has died, and starts another of the `new` for it.

        `before`: it begins by burying the zygote before it.
        """
        if before:
            yield when(is_dead, before)
            yield from self.bury(me, ZYGOTE)
        while True:
            yield when(self.needs_burial, mortals)
            for process in mortals:
                if (yield load(("dead", process))) and (yield load(("entry", process))) != FREE:
                    yield from self.bury(me, process)
                    if new:
                        yield spawn(new[0])
                        new = new[1:]
            if self.inputs:
                for index in self.inputs:  # of whoever dies next, and leaves nothing else
                    yield from self.repair_waiting(me, index, NOBODY)

    def needs_burial(self, words, processes):
        if any(words["dead", process] and words["entry", process] != FREE for process in processes):
            return True
        return any(self.is_left(words, index) for index in self.inputs)

    def is_left(self, words, index):
        """A task that was put off by a burial, since its input's list was just being walked."""
        return (
            words["orphaned", index]
            and words["holds", index] & EDGES
            and not any(words["holds", input] & RUN for input in self.inputs[index])
        )

    def owned(self):
        """Words that their process alone writes."""
        return {(note, process): process for process in self.processes for note in (*NOTES, "giving")}


def is_vacant(words, index):
    return words["used", index] == 0


def has_ended(words, index, generation):
    """Whether a slot's use of that generation is over, or gone."""
    return words["state", index][0] != generation or words["state", index][1] not in (FREE, *UNFINISHED)


def is_dead(words, process):
    return words["dead", process]


# ---- what must be true ---------------------------------------------------------------------------------------------------


def unfinished(words, slots):
    """A task that nobody will ever run or finish."""
    for index in range(slots):
        if words["state", index][1] in UNFINISHED:
            return f"slot {index} is {words['state', index][1]} for ever"
    return None


def freed_too_early(words, slots):
    """A slot that somebody holds while it is given back."""
    for index in range(slots):
        if words["state", index][1] == LEAVING and words["holds", index] & HOLDS:
            return f"slot {index} is given back while it is held: {words['holds', index] & HOLDS:#x}"
    return None


def taken(words, slots):
    """A slot that nobody will ever give back."""
    for index in range(slots):
        if words["used", index] or words["state", index][1] != FREE:
            return f"slot {index} stays taken: {words['state', index]}, holds {words['holds', index] & HOLDS:#x}"
    return None
