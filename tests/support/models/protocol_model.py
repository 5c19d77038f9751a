"""The protocol of `kernels/runtime/PROTOCOL.md` as programs for `explorer.py`: the native files' steps, by name.

A slot's state is (generation, status, owner). Its references and its releaser tag are one number, the tag above the
references. An edge is named by (task, dependency's number). Left out: values, blocks, extents, and more than one level of a
dependency's bits. `Protocol.without` names what is left out of the protocol, for the tests that want to see it fail.
"""

from __future__ import annotations

from explorer import add, cas, choose, clear, exchange, exchanges, fail, load, put, set_bits, spawn, store, stores, when

FREE, WAITING, READY, RUNNING, DONE, FAILED = "free", "waiting", "ready", "running", "done", "failed"
LEAVING = "leaving"  # its owner frees it
UNFINISHED = (WAITING, READY, RUNNING)
FINISHED = (DONE, FAILED)

CREATOR, RUN, EDGES, PENDING, RECOVERY, COUNT = 0x80, 0x40, 0x20, 0x10, 0x08, 0x07
REFS = 0xFF
TAG_SHIFT = 8

CLOSED = "closed"  # a waiter list
OPEN, QUEUE_DEAD = "open", "queue is dead"
NO_DEPENDENCY = "no input"
GONE = "freed"  # what a word of a freed block holds
NOBODY = ""
#: What a process writes about itself; None: nothing.
NOTES = ("building", "promoting", "rotating", "freeing", "releasing_edge", "releasing_slot", "current")
ZYGOTE = "zygote"


class Protocol:
    """Programs over one set of slots and queues; every method is a generator that process `me` runs."""

    def __init__(
        self,
        slots,
        processes,
        queues=(0,),
        ordered=(),
        ring=2,
        tags=2,
        inputs=None,
        without=(),
        serves=None,
        earlier=None,
        per_word=0,
    ):
        self.slots = slots  # how many
        self.processes = processes
        self.queues = queues
        self.ordered = ordered
        self.ring = ring  # positions
        self.tags = tags  # numbers that a tag can tell apart
        self.dependencies = inputs or {}  # task -> the slots it waits for
        self.serves = serves or {}  # process -> queue, of an instance's process
        self.earlier = (
            earlier or {}
        )  # (slot, generation) -> the call of the same queue that must have ended before it begins
        self.per_word = per_word  # of an input's bits in a word of level 0; 0: there is one level only
        self.without = frozenset(without)

    def has(self, what):
        return what not in self.without

    def barrier(self, what, word, value):
        """Return an exchange for what it makes the loads after it wait for; without `what` a plain store."""
        return exchange(word, value) if self.has(what) else store(word, value)

    def words(self):
        words = {}
        for slot in range(self.slots):
            words.update(self.slot_words(slot))
        for queue in self.queues:
            words.update({("head", queue): 0, ("tail", queue): 0, ("queue state", queue): OPEN})
            words.update((("ring", queue, place), (0,)) for place in range(self.ring))
        for process in self.processes:
            words.update(((note, process), None) for note in NOTES)
            words.update({("release_seq", process): 0, ("acked_release", process): 0})
            words["entry", process] = "live"
        return words

    def slot_words(self, slot):
        words = {
            ("state", slot): (0, FREE, NOBODY),
            ("refs", slot): 0,
            ("waiters", slot): None,
            ("used", slot): 0,
            ("queue", slot): None,
            ("queue_tail", slot): 0,
            ("creator", slot): NOBODY,
            ("started", slot): 0,
            ("begun", slot): 0,  # how often this use of it has begun to run: no process of the protocol reads it
            ("watched", slot): 0,
            ("dependencies", slot): 0,
            ("submitter_died", slot): 0,
            ("top", slot): GONE,
        }
        if self.per_word and slot in self.dependencies:
            words.update((word, frozenset()) for word, _ in self.all_missing(slot)[:-1])
        for number in range(len(self.dependencies.get(slot, ()))):
            words.update({("next", slot, number): GONE, ("dependency", slot, number): NO_DEPENDENCY})
        return words

    def bits_of(self, task):
        """Return an input's bit each, and the submitter's own."""
        return (*range(len(self.dependencies[task])), "own")

    def word_of(self, task, bit):
        """Return which word of level 0 has a bit."""
        return self.bits_of(task).index(bit) // self.per_word

    def all_missing(self, task):
        """Yield what `mark_all_missing` writes: pairs of words and values."""
        bits = self.bits_of(task)
        if not self.per_word:
            return [(("top", task), frozenset(bits))]
        numbers = range(0, len(bits), self.per_word)
        low = [(("low", task, at // self.per_word), frozenset(bits[at : at + self.per_word])) for at in numbers]
        return [*low, (("top", task), frozenset(range(len(low))))]

    # ---- slots.pxd, groups.pxd ---------------------------------------------------------------------------------------

    def slot_alloc(self, me, index):
        """`member_alloc`: allocate from this process's own group, so that no other process allocates the slot."""
        yield when(is_vacant, index)
        if self.has("building"):
            yield store(("building", me), index)
        yield exchange(("used", index), 1)  # a cas of the group's word

    def slot_prepare(self, me, index):
        yield stores((("waiters", index), None), (("started", index), 0), (("begun", index), 0), (("watched", index), 0))
        if self.has("creator before references"):
            yield store(("creator", index), me)
        yield put(("refs", index), REFS, CREATOR | RUN)
        if not self.has("creator before references"):
            yield store(("creator", index), me)
        if not self.has("the tag stays"):
            yield put(("refs", index), ~REFS, 0)

    def slot_free(self, me, index):
        """Free a slot that this process has claimed to free, or that is still FREE."""
        outer = yield from self.free_note(me, index)
        has_inputs = yield load(("dependencies", index))
        yield from self.release_dependencies(me, index)
        if has_inputs:
            yield store(("dependencies", index), 0)
            yield from self.block_free(index)
        generation, status, _ = yield load(("state", index))
        if status in UNFINISHED:
            yield fail(f"slot {index} is freed while it is {status}")
        yield store(("state", index), (generation + 1, FREE, me if self.has("a claim before freeing") else NOBODY))
        if not (yield exchange(("used", index), 0)):
            yield fail(f"slot {index} is freed twice")
        yield from self.free_noted(me, outer)

    def slot_retire(self, me, index, generation):
        """Retire a slot that has no reference any more: the process that claims it frees it.

        `generation`: of its last reference.
        """
        if not self.has("a claim before freeing"):
            yield from self.slot_free(me, index)
            return
        state = yield load(("state", index))
        if self.has("the generation of what is freed") and state[0] != generation:
            return
        if state[1] in FINISHED and (yield cas(("state", index), state, (state[0], LEAVING, me))):
            yield from self.slot_free(me, index)

    def block_free(self, index):
        """No process may read what lay in the block of dependencies from here on."""
        pairs = [(name, GONE) for name, _ in self.all_missing(index)]
        for number in range(len(self.dependencies[index])):
            pairs += [(("next", index, number), GONE), (("dependency", index, number), NO_DEPENDENCY)]
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

    def release_refs(self, me, index, bits):
        outer = yield from self.free_note(me, index)
        generation = yield from self.generation_of(index)
        before = (yield clear(("refs", index), bits)) & REFS
        if before & bits and not before & ~bits:
            yield from self.slot_retire(me, index, generation)
        yield from self.free_noted(me, outer)

    def release_count(self, me, index):
        yield from self.begin_release(me, index)
        yield from self.release_dependent(me, index, me)

    def begin_release(self, me, index):
        """Give the release a new number, one that the slot's tag does not show; name the slot first."""
        release_seq = yield load(("release_seq", me))
        if not self.has("the slot of a tag"):
            yield store(("release_seq", me), release_seq + 1)
            yield store(("releasing_slot", me), index)
            return
        shown = (yield load(("refs", index))) >> TAG_SHIFT
        release_seq += 1
        if self.has("a number not shown") and self.releaser_tag(me, release_seq) == shown:
            release_seq += 1
        yield store(("releasing_slot", me), index)
        yield store(("release_seq", me), release_seq)

    def release_dependent(self, me, index, releaser):
        outer = yield from self.free_note(me, index)
        generation = yield from self.generation_of(index)
        release_seq = yield load(("release_seq", releaser))
        tag = self.releaser_tag(releaser, release_seq)
        while True:
            refs = yield load(("refs", index))
            if self.has("acked_release"):
                yield from self.help_release(me, index, refs >> TAG_SHIFT)
            if not refs & COUNT:
                yield fail(f"a reference to slot {index} is released twice")
            if (yield cas(("refs", index), refs, tag << TAG_SHIFT | (refs & REFS) - 1)):
                break
        yield store(("releasing_edge", releaser), None)
        if refs & REFS == 1:
            yield from self.slot_retire(me, index, generation)
        yield from self.free_noted(me, outer)

    def releaser_tag(self, process, release_seq):
        return self.processes.index(process) * self.tags + release_seq % self.tags + 1

    def help_release(self, me, index, tag):
        process = self.processes[(tag - 1) // self.tags] if tag else me
        if process == me:
            return
        release_seq = yield load(("release_seq", process))
        if self.releaser_tag(process, release_seq) != tag:
            return
        if self.has("the slot of a tag"):
            if (yield load(("releasing_slot", process))) != index:
                return
            if (yield load(("refs", index))) >> TAG_SHIFT != tag:
                return
        acked = yield load(("acked_release", process))
        while acked < release_seq:
            if (yield cas(("acked_release", process), acked, release_seq)):
                break
            acked = yield load(("acked_release", process))

    # ---- run_queue.pxd -----------------------------------------------------------------------------------------------

    def entry_of(self, position, index, state):
        if self.has("the queue of an entry"):
            return (position // self.ring, index)
        return (position // self.ring, index, state[0] % 2)

    def is_empty(self, entry):
        return len(entry) == 1

    def queue_push(self, me, queue, index, state):
        """Return False when the ring of an ordered queue is full."""
        while True:
            tail = yield load(("tail", queue))
            entry = yield load(("ring", queue, tail % self.ring))
            if entry[0] == tail // self.ring:
                if not self.is_empty(entry):
                    yield cas(("tail", queue), tail, tail + 1)
                elif (yield cas(("ring", queue, tail % self.ring), entry, self.entry_of(tail, index, state))):
                    yield cas(("tail", queue), tail, tail + 1)
                    return True
            elif entry[0] == tail // self.ring + 1:
                yield cas(("tail", queue), tail, tail + 1)
            elif (yield load(("tail", queue))) == tail and not (yield from self.queue_trim(me, queue)):
                if queue in self.ordered:
                    return False
                yield from self.queue_rotate(me, queue)

    def queue_rotate(self, me, queue):
        head = yield load(("head", queue))
        entry = yield load(("ring", queue, head % self.ring))
        outer = yield load(("rotating", me))
        if entry[0] != head // self.ring or self.is_empty(entry):
            return
        index = entry[1]
        state = yield load(("state", index))
        if (yield from self.is_stale(queue, head, entry, state)):
            return
        yield store(("rotating", me), index)
        if (yield from self.queue_drop(queue, head, entry)):
            yield from self.queue_push(me, queue, index, state)
        yield store(("rotating", me), outer)

    def queue_trim(self, me, queue):
        count = 0
        while True:
            head = yield load(("head", queue))
            entry = yield load(("ring", queue, head % self.ring))
            if entry[0] != head // self.ring or self.is_empty(entry):
                return count
            state = yield load(("state", entry[1]))
            if not (yield from self.is_stale(queue, head, entry, state)):
                return count
            dropped = yield from self.queue_drop(queue, head, entry)
            count += dropped

    def is_stale(self, queue, position, entry, state):
        if state[1] != READY and not (state[1] == WAITING and queue in self.ordered):
            return True
        return not (yield from self.is_valid(queue, position, entry, state))

    def is_valid(self, queue, position, entry, state):
        """Return whether an entry is one of the slot as of `state`, which was read before."""
        if not self.has("the queue of an entry"):
            return state[0] % 2 == entry[2]
        if (yield load(("queue", entry[1]))) != queue:
            return False
        if not self.has("the tail of an entry"):
            return True
        return (yield load(("queue_tail", entry[1]))) <= position

    def queue_drop(self, queue, head, entry):
        dropped = yield cas(("ring", queue, head % self.ring), entry, (head // self.ring + 1,))
        yield cas(("head", queue), head, head + 1)
        return dropped

    def queue_claim(self, me, queue):
        """Claim a slot; return it, or None."""
        while True:
            head = yield load(("head", queue))
            entry = yield load(("ring", queue, head % self.ring))
            if entry[0] == head // self.ring + 1:
                yield cas(("head", queue), head, head + 1)
                continue
            if entry[0] != head // self.ring:
                continue
            if self.is_empty(entry):
                return None
            index = entry[1]
            state = yield load(("state", index))
            if not self.has("claim before drop"):
                yield from self.queue_drop(queue, head, entry)
            if state[1] in (WAITING, READY) and (yield from self.is_valid(queue, head, entry, state)):
                if state[1] == READY:
                    if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                        yield from self.queue_drop(queue, head, entry)
                        return index
                    continue
                if queue in self.ordered and self.has("a waiting one stops its queue"):
                    return None
            yield from self.queue_drop(queue, head, entry)

    def claim_here(self, me, index):
        """`Worker._claim_here`: claim out of the middle of its queue."""
        state = yield load(("state", index))
        queue = yield load(("queue", index))
        if state[1] != READY or queue in self.ordered:
            return False
        if (yield cas(("state", index), state, (state[0], RUNNING, me))):
            yield from self.queue_trim(me, queue)
            return True
        return False

    # ---- client.pxi --------------------------------------------------------------------------------------------------

    def submit(self, me, index, queue=0):
        """Submit a call by a `CallTarget`, from `_new_slot` on."""
        yield from self.slot_alloc(me, index)
        yield from self.slot_prepare(me, index)
        yield from self.publish(me, index, queue)

    def publish(self, me, index, queue):
        inputs = self.dependencies.get(index, ())
        state = yield load(("state", index))
        generation = state[0]
        yield store(("queue", index), queue)
        tail = yield load(("tail", queue))
        yield store(("queue_tail", index), tail)
        if inputs:
            yield from self.add_inputs(me, index)
            yield set_bits(("refs", index), EDGES)
        queued = queue in self.ordered or not inputs
        if queued and not self.has("state before entry"):
            yield from self.queue_push(me, queue, index, state)
        yield exchange(("state", index), (generation, WAITING if inputs else READY, NOBODY))
        if queued and self.has("state before entry"):
            alive = queue not in self.ordered or (yield load(("queue state", queue))) != QUEUE_DEAD
            if alive and not (yield from self.queue_push(me, queue, index, state)):
                yield fail("the ring of an ordered queue is full")
        yield store(("building", me), None)
        if inputs:
            yield from self.stand_on_inputs(me, index)
        looks = queue in self.ordered and self.has("a look at the queue after publishing")
        if looks and (yield load(("queue state", queue))) == QUEUE_DEAD:
            yield from self.fail_unstarted(me, index)

    def add_inputs(self, me, index):
        inputs = self.dependencies[index]
        words = [(("next", index, number), None) for number in range(len(inputs))]
        yield stores((("submitter_died", index), 0), *self.all_missing(index), *words)
        yield store(("dependencies", index), 1)
        for number, input in enumerate(inputs):
            if self.has("pending"):
                yield add(("refs", input), PENDING + 1)
                yield store(("dependency", index, number), input)
                yield from self.release_refs(me, input, PENDING)
            else:
                yield add(("refs", input), 1)
                yield store(("dependency", index, number), input)

    def stand_on_inputs(self, me, index):
        for number, input in enumerate(self.dependencies[index]):
            if not (yield from self.subscribe(me, input, (index, number))):
                state = yield load(("state", input))
                if state[1] == FAILED:
                    yield from self.fail_unstarted(me, index)
                yield from self.mark_ready(me, index, number)
        yield from self.dependency_ready(me, index, "own", ())

    def drop(self, me, index):
        """Drop the creator's future."""
        yield from self.release_refs(me, index, CREATOR)

    # ---- dependencies.pxd --------------------------------------------------------------------------------------------

    def mark_ready(self, me, task, bit):
        """Return True to the process that clears the last bit."""
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
                    yield fail(f"{me} looks at the dependencies of {task}, which are freed")
                if name[0] == "low" and not self.has("the clearer's tag in a word"):
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
        """Go on above the words whose last bit a dead process cleared."""
        if self.per_word and self.has("the clearer's tag in a word"):
            for name, _ in self.all_missing(task)[:-1]:
                way = ((("top", task), name[2]),)
                if (yield load(name)) == ("all there", dead) and (yield from self.clear_from(me, task, way)):
                    return True
        return (yield load(("top", task))) == ("all there", dead)

    def release_dependencies(self, me, index):
        if not (yield load(("dependencies", index))):
            return
        for number in range(len(self.dependencies[index])):
            if (yield load(("dependency", index, number))) != NO_DEPENDENCY:
                yield from self.release_edge(me, index, number)

    def release_edge(self, me, index, number):
        named = yield load(("dependency", index, number))
        if named == NO_DEPENDENCY:
            return
        yield from self.begin_release(me, named)
        yield store(("releasing_edge", me), (index, number))
        if self.has("an edge by exchange"):
            held = yield exchange(("dependency", index, number), NO_DEPENDENCY)
        else:
            held = yield load(("dependency", index, number))
            yield store(("dependency", index, number), NO_DEPENDENCY)
        if held != NO_DEPENDENCY:
            yield from self.release_dependent(me, held, me)
        yield store(("releasing_edge", me), None)

    def promote(self, me, index, state, kept):
        """`kept`: () or (True,) if this process may keep a task. Return the task if it keeps one."""
        if state[1] != WAITING:
            return None
        queue = yield load(("queue", index))
        if kept and queue == 0:
            if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                return index
            return None
        if self.has("promoting"):
            yield store(("promoting", me), index)
        if (yield cas(("state", index), state, (state[0], READY, NOBODY))) and queue not in self.ordered:
            yield from self.queue_push(me, queue, index, state)
        yield store(("promoting", me), None)
        return None

    def dependency_ready(self, me, task, bit, kept):
        if (yield from self.mark_ready(me, task, bit)):
            return (yield from self.all_dependencies_ready(me, task, kept))
        return None

    def all_dependencies_ready(self, me, task, kept):
        state = yield load(("state", task))
        found = yield from self.promote(me, task, state, kept)
        state = yield load(("state", task))
        if state[1] in FINISHED:
            yield from self.release_dependencies(me, task)
        yield from self.release_refs(me, task, EDGES)
        return found

    def subscribe(self, me, input, edge):
        head = yield load(("waiters", input))
        while head != CLOSED:
            yield store(("next", *edge), head)
            if (yield cas(("waiters", input), head, edge)):
                return True
            head = yield load(("waiters", input))
        return False

    def is_subscribed(self, me, input, edge):
        at = yield load(("waiters", input))
        while at not in (CLOSED, None, edge):
            at = yield load(("next", *at))
            if self.has("a look at the list while reading it") and (yield load(("waiters", input))) == CLOSED:
                return False
            if at == GONE:
                yield fail(f"{me} goes on from an edge that is freed")
        return at == edge

    # ---- completion.pxd ----------------------------------------------------------------------------------------------

    def write_result(self, me, index):
        yield store(("started", index), 1)

    def fail_with(self, me, index):
        """Return True if this process has claimed the task to fail it."""
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
        """Finish a task; return a task that this process keeps, if any."""
        found = None
        todo = (index,)
        while todo:
            index = todo[-1]
            more, one = yield from self.finish_one(me, index, status, kept if found is None else ())
            found = one if found is None else found
            todo = todo[:-1] + more
        return found

    def finish_one(self, me, index, status, kept):
        if not self.has("REF_RUN last"):
            yield from self.release_refs(me, index, RUN)
        generation, _, _ = yield load(("state", index))
        yield self.barrier("finished by exchange", ("state", index), (generation, status, me))
        failed, found = yield from self.tell_dependents(me, index, status, kept, True)
        if not (yield load(("refs", index))) & EDGES:
            yield from self.release_dependencies(me, index)
        if self.has("REF_RUN last"):
            yield from self.release_refs(me, index, RUN)
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
            one = yield from self.dependency_ready(me, task, bit, kept if found is None else ())
            found = one if found is None else found
            if not self.has("the next edge before the bit"):
                following = yield load(("next", *at))
            if following == GONE:
                yield fail(f"{me} reads an edge of {task} that is freed")
            at = following
        return failed, found

    # ---- worker.pxi --------------------------------------------------------------------------------------------------

    def run(self, me, index, status=DONE, kept=()):
        """`Worker._run`: return the task that it keeps."""
        queue = yield load(("queue", index))
        if queue != self.serves.get(me, 0):
            yield fail(f"{me} runs slot {index}, a call of queue {queue}")
        if self.earlier:
            yield from self.check_order(me, index)
        yield store(("started", index), 1)
        yield exchange(("current", me), index)
        if (yield add(("begun", index), 1)):
            yield fail(f"slot {index} runs twice")
        for number, input in enumerate(self.dependencies.get(index, ())):
            if (yield load(("dependency", index, number))) != input:
                yield fail(f"slot {index} runs without its reference to {input}")
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
        """Serve without sleep: the worker waits until there is something in its queue. `fails`: slots whose calls fail."""
        queue = self.serves.get(me, 0)
        kept = None
        while True:
            index = kept
            kept = None
            if index is None:
                yield when(self.is_worth_a_look, queue)
                index = yield from self.queue_claim(me, queue)
            if index is not None:
                kept = yield from self.run(me, index, FAILED if index in fails else DONE, (True,) if keeps else ())

    def is_worth_a_look(self, words, queue):
        """Return whether `queue_claim` would do anything but return."""
        head = words["head", queue]
        entry = words["ring", queue, head % self.ring]
        if entry[0] == head // self.ring and self.is_empty(entry):
            return False
        if queue not in self.ordered or self.is_empty(entry) or not self.has("a waiting one stops its queue"):
            return True
        return words["state", entry[1]][1] != WAITING or not self.is_valid_now(words, queue, head, entry)

    def is_valid_now(self, words, queue, position, entry):
        if not self.has("the queue of an entry"):
            return words["state", entry[1]][0] % 2 == entry[2]
        return words["queue", entry[1]] == queue and words["queue_tail", entry[1]] <= position

    # ---- recovery.pxd, supervisor.pxi --------------------------------------------------------------------------------

    def recover_process(self, me, dead):
        """`Supervisor.recover_process`: its steps 2, 3, 4, 6, 8 and 10. The others have scenarios of their own."""
        yield from self.recover_release(me, dead)
        yield from self.recover_allocation(me, dead)
        for index in range(self.slots):
            state = yield load(("state", index))
            if state[1] == RUNNING and state[2] == dead:
                yield from self.recover_task(me, index)
        if self.has("finish_again"):
            for index in range(self.slots):
                yield from self.finish_again(me, index, dead)
        if self.has("repair_waiting"):
            for index in self.dependencies:
                yield from self.repair_waiting(me, index, dead)
        yield from self.queue_again(me, "promoting", dead)
        yield from self.queue_again(me, "rotating", dead)
        if self.has("a claim before freeing"):
            for index in range(self.slots):
                yield from self.recover_slot(me, index, dead)
        if dead == ZYGOTE:
            for index in range(self.slots):
                if (yield load(("refs", index))) & RECOVERY:
                    yield from self.release_refs(me, index, RECOVERY)
            return
        for index in range(self.slots):
            if (yield load(("refs", index))) & CREATOR and (yield load(("creator", index))) == dead:
                yield from self.release_refs(me, index, CREATOR)
        if dead in self.serves:
            yield from self.recover_queue(me, self.serves[dead])
        yield exchange(("entry", dead), FREE)

    def recover_queue(self, me, queue):
        yield self.barrier("a queue dead by cas", ("queue state", queue), QUEUE_DEAD)
        for index in range(self.slots):
            state = yield load(("state", index))
            if state[1] not in (WAITING, READY) or (yield load(("queue", index))) != queue:
                continue
            if (yield cas(("state", index), state, (state[0], RUNNING, me))):
                yield from self.write_result(me, index)
                yield from self.finish(me, index, FAILED)

    def acquire_again(self, me, index, state):
        more = RECOVERY if self.has("a bit for the recovery") else 1
        refs = yield load(("refs", index))
        while refs & REFS:
            if (yield cas(("refs", index), refs, refs | RECOVERY if more == RECOVERY else refs + 1)):
                now = yield load(("state", index))
                if now[0] == state[0]:
                    return True
                yield from self.let_go(me, index)
                return False
            refs = yield load(("refs", index))
        return False

    def let_go(self, me, index):
        """Release what `acquire_again` has acquired."""
        if self.has("a bit for the recovery"):
            yield from self.release_refs(me, index, RECOVERY)
        else:
            yield from self.release_count(me, index)

    def finish_again(self, me, index, dead):
        if self.has("references before the state"):
            refs = yield load(("refs", index))
            state = yield load(("state", index))
        else:
            state = yield load(("state", index))
            refs = yield load(("refs", index))
        if not refs & RUN or state[1] not in FINISHED or state[2] != dead:
            return
        yield from self.tell_dependents(me, index, DONE, (), False)
        if not (yield load(("refs", index))) & EDGES:
            yield from self.release_dependencies(me, index)
        yield from self.release_refs(me, index, RUN)

    def repair_waiting(self, me, index, dead):
        state = yield load(("state", index))
        if state[1] == FREE or not (yield load(("refs", index))) & EDGES:
            return
        if not (yield from self.acquire_again(me, index, state)):
            return
        for number in range(len(self.dependencies[index])):
            at = yield load(("dependency", index, number))
            if at == NO_DEPENDENCY:
                continue
            input_state = yield load(("state", at))
            if input_state[2] != dead:
                continue
            if input_state[1] == FAILED:
                yield from self.fail_unstarted(me, index)
            yield from self.dependency_ready(me, index, number, ())
        creator = yield load(("creator", index))
        if self.has("finish_submission") and (creator == dead or (yield load(("submitter_died", index)))):
            yield from self.finish_submission(me, index)
        if self.has("all there by the dead process") and (yield from self.clear_again(me, index, dead)):
            yield from self.all_dependencies_ready(me, index, ())
        yield from self.let_go(me, index)

    def finish_submission(self, me, index):
        if not (yield from self.is_missing(index, "own")):
            return
        yield store(("submitter_died", index), 1)
        yield from self.fail_unstarted(me, index)
        for number in range(len(self.dependencies[index])):
            if not (yield from self.is_missing(index, number)):
                continue
            input = yield load(("dependency", index, number))
            if (yield from self.is_subscribed(me, input, (index, number))):
                continue
            if (yield from self.subscribe(me, input, (index, number))):
                continue
            if self.has("is_walked") and not (yield from self.is_walked(input)):
                return
            yield from self.dependency_ready(me, index, number, ())
        yield from self.dependency_ready(me, index, "own", ())

    def is_missing(self, index, bit):
        word = yield load(("low", index, self.word_of(index, bit)) if self.per_word else ("top", index))
        if word == GONE:
            yield fail(f"the dependencies of {index} are looked at, which are freed")
        return not isinstance(word, tuple) and bit in word

    def is_walked(self, input):
        while (yield load(("refs", input))) & RUN:
            if (yield choose("goes on", "time is up")) == "time is up":
                return False
        return True

    def recover_task(self, me, index):
        state = yield load(("state", index))
        queue = yield load(("queue", index))
        started = yield load(("started", index))
        if (started and self.has("started")) or queue in self.ordered:
            yield from self.write_result(me, index)
            yield from self.finish(me, index, FAILED)
            return
        yield store(("promoting", me), index)
        if (yield load(("dependencies", index))) and self.has("waiting again"):
            yield self.barrier("waiting again by exchange", ("state", index), (state[0], WAITING, NOBODY))
            if self.has("a look after it waits again"):
                yield from self.promote_if_there(me, index)
            yield store(("promoting", me), None)
            return
        yield exchange(("state", index), (state[0], READY, NOBODY))
        yield from self.queue_push(me, queue, index, state)
        yield store(("promoting", me), None)

    def promote_if_there(self, me, index):
        """Promote the task for the process that cleared the last bit meanwhile and found the task claimed."""
        state = yield load(("state", index))
        inputs = yield load(("dependencies", index))
        if state[1] != WAITING or not inputs:
            return
        top = yield load(("top", index))
        if isinstance(top, tuple):
            yield from self.promote(me, index, state, ())

    def recover_release(self, me, dead):
        edge = yield load(("releasing_edge", dead))
        if edge is None:
            return
        index = yield load(("releasing_slot", dead))
        task = edge[0]
        if (yield load(("dependency", *edge))) == NO_DEPENDENCY:
            releaser = (yield load(("refs", index))) >> TAG_SHIFT
            release_seq = yield load(("release_seq", dead))
            if releaser != self.releaser_tag(dead, release_seq) and (yield load(("acked_release", dead))) != release_seq:
                yield from self.release_dependent(me, index, dead)
        yield store(("releasing_edge", dead), None)
        if not self.has("a claim before freeing"):
            yield from self.recover_freeing(me, task, dead)

    def recover_allocation(self, me, dead):
        building = yield load(("building", dead))
        freeing = yield load(("freeing", dead))
        yield from self.recover_pending(me, dead, building)
        if building is not None:
            state = yield load(("state", building))
            if state[1] == FREE and (yield load(("used", building))):
                yield from self.slot_free(me, building)
            elif state[1] == READY:
                queue = yield load(("queue", building))
                state = yield load(("state", building))
                yield from self.queue_push(me, queue, building, state)
        yield store(("building", dead), None)
        if freeing is not None and not self.has("a claim before freeing"):
            yield from self.recover_freeing(me, freeing, dead)
        yield store(("freeing", dead), None)

    def recover_freeing(self, me, index, dead):
        """Recover a slot that the dead process had named as one that it might free."""
        state = yield load(("state", index))
        for _look in range(2):
            if not (yield from self.has_no_owner(index, state)):
                return
            if (yield from self.is_named(index, dead)):
                return
        if (yield load(("state", index))) != state:
            return
        if state[1] == FREE:
            yield exchange(("used", index), 0)
        else:
            yield from self.slot_free(me, index)

    def recover_slot(self, me, index, dead):
        """Recover a slot without a reference, if no living process has claimed it to free it."""
        state = yield load(("state", index))
        if state[1] == LEAVING and state[2] == dead:
            yield from self.slot_free(me, index)
        elif state[1] in FINISHED:
            if not (yield load(("refs", index))) & REFS:
                yield from self.slot_retire(me, index, state[0])
        elif state[1] == FREE and state[2] == dead:
            yield from self.recover_free(me, index, state)

    def recover_free(self, me, index, state):
        """Recover a slot that the dead process had freed, while it had perhaps not cleared the slot's bit.

        A process that has allocated the slot since names it.
        """
        if not (yield load(("used", index))):
            return
        for process in self.processes:
            if (yield load(("building", process))) == index:
                return
        if (yield load(("state", index))) == state:
            yield exchange(("used", index), 0)

    def has_no_owner(self, index, state):
        if state[1] == FREE:
            return (yield load(("used", index))) == 1
        return state[1] in FINISHED and not (yield load(("refs", index))) & REFS

    def is_named(self, index, dead):
        for process in self.processes:
            if process == dead:
                continue
            if (yield load(("building", process))) == index or (yield load(("freeing", process))) == index:
                return True
        return False

    def recover_pending(self, me, dead, building):
        for index in range(self.slots):
            if not (yield load(("refs", index))) & PENDING or (yield load(("creator", index))) != dead:
                continue
            written = False
            if building is not None and (yield load(("dependencies", building))):
                for number in range(len(self.dependencies[building])):
                    if (yield load(("dependency", building, number))) == index:
                        written = True
            if self.has("one step for what is pending"):
                yield from self.release_pending(me, index, written)
            else:
                if not written:
                    yield from self.release_count(me, index)
                yield from self.release_refs(me, index, PENDING)

    def release_pending(self, me, index, written):
        while True:
            refs = yield load(("refs", index))
            if (yield cas(("refs", index), refs, refs - PENDING - (not written))):
                return

    def queue_again(self, me, note, dead):
        index = yield load((note, dead))
        if index is None:
            return
        state = yield load(("state", index))
        queue = yield load(("queue", index))
        if state[1] == READY and queue not in self.ordered:
            yield from self.queue_push(me, queue, index, state)
        if self.has("a look after it waits again"):
            yield from self.promote_if_there(me, index)
        yield store((note, dead), None)

    def supervise(self, me, mortals, new=(), before=None):
        """Live a supervisor's life: recover each dead process, and start another of the `new` for it.

        `before`: it begins by recovering the supervisor before it.
        """
        if before:
            yield when(is_dead, before)
            yield from self.recover_process(me, ZYGOTE)
        while True:
            yield when(self.needs_recovery, mortals)
            for process in mortals:
                if (yield load(("dead", process))) and (yield load(("entry", process))) != FREE:
                    yield from self.recover_process(me, process)
                    if new:
                        yield spawn(new[0])
                        new = new[1:]
            if self.dependencies:
                for index in self.dependencies:  # of the process that dies next, and leaves nothing else
                    yield from self.repair_waiting(me, index, NOBODY)

    def needs_recovery(self, words, processes):
        if any(words["dead", process] and words["entry", process] != FREE for process in processes):
            return True
        return any(self.is_left(words, index) for index in self.dependencies)

    def is_left(self, words, index):
        """Tell whether a recovery put a task off, since its input's list was just being walked."""
        return (
            words["submitter_died", index]
            and words["refs", index] & EDGES
            and not any(words["refs", input] & RUN for input in self.dependencies[index])
        )

    def owned(self):
        """Return the words that only their own process writes."""
        return {(note, process): process for process in self.processes for note in (*NOTES, "release_seq")}


def is_vacant(words, index):
    return words["used", index] == 0


def has_ended(words, index, generation):
    """Return whether a slot's use of that generation is over, or gone."""
    return words["state", index][0] != generation or words["state", index][1] not in (FREE, *UNFINISHED)


def is_dead(words, process):
    return words["dead", process]


# ---- what must be true ---------------------------------------------------------------------------------------------------


def unfinished(words, slots):
    """Find a task that no process will ever run or finish."""
    for index in range(slots):
        if words["state", index][1] in UNFINISHED:
            return f"slot {index} is {words['state', index][1]} for ever"
    return None


def freed_too_early(words, slots):
    """Find a slot that has a reference while it is freed."""
    for index in range(slots):
        if words["state", index][1] == LEAVING and words["refs", index] & REFS:
            return f"slot {index} is freed while it has references: {words['refs', index] & REFS:#x}"
    return None


def taken(words, slots):
    """Find a slot that no process will ever free."""
    for index in range(slots):
        if words["used", index] or words["state", index][1] != FREE:
            return f"slot {index} stays taken: {words['state', index]}, references {words['refs', index] & REFS:#x}"
    return None
