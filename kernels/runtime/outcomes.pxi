# Outcomes of calls: wait for them, and read them.
# uses: python_api, handle, reader, values, decode, waits, deadlock

from libc.stdint cimport int64_t, uint32_t, uint64_t
from .core.externs cimport ff_exchange32, ff_load32, ff_load64, ff_now_ns
from .core.layout cimport (
    CALL_UNWANTED, ENDING, FAILED, FREE, KIND_CAPTURED, KIND_NATIVE, LEAVING, NO_SERVICE, PROCESS_COUNT, PROCESS_LIVE,
    READY, RESULT, ROLE_POOL, RUNNING, Process, Slot,
)
from .core.checksum cimport checksum
from .core.bounds cimport is_header_sound, service_number
from .core.lookup cimport data_of, end_of_value, is_finished, owner_of, status_of
from .core.completion cimport cancel_unstarted, is_cancelled
from .core.policy cimport alarm_by
from .core.wakeup cimport (
    PATIENCE_NS, SLICE_NS, call_for_queued, ring_bell, sleep_for_futures, wake_everybody, wake_sleepers,
)

cdef enum:
    FORCE_NS = 2_000_000_000    # until a call is ended by force, at most, unless its process cannot be killed just now
    LOOK_NS = 20_000_000        # between two looks at that
    FORGOTTEN_NS = 2_000_000_000    # a wait for a queued call wakes every idle worker so often
    UNLIKELY_NS = 10_000_000_000    # a call's state that a death explains, but not for so long

cdef struct Suspicion:          # of one wait, that the segment was overwritten
    int64_t called              # when it last woke every idle worker, or began
    int64_t unlikely_since      # 0: what it waits for looks as it may

cdef object out_of_time():
    return TimeoutError("the calls waited for have not finished in time; they go on")

cdef object deadlock_error():
    return FlameError(
        FlameErrorCode.INVALID_STATE,
        "deadlock: the call waited for depends on the task that waits (an instance method waiting for its own instance, or "
        "a cycle of such waits); wait outside of the instance's methods, or call another instance",
    )

cdef class Outcomes(Values):
    """Wait for calls, and read their values or errors."""
    cdef public object output_of        # returns the last lines that an ended process of a pid printed; None: nobody knows
    cdef public object show_output      # shows what tasks have printed; None: this process does not show it
    cdef uint32_t shown                 # Header.printed when that was last done
    cdef object notifier                # runs the callbacks of futures; None: there were none
    cdef unsigned long task_thread
    cdef int blocked_threads            # of the running task: they wait for other tasks

    cdef inline int show_printed(self) except -1:
        """Show what the calls have printed that have finished so far: before the caller learns that one has."""
        # S26: pairs with `note_output`; the caller has seen the outcome before.
        if ff_load32(&self.memory.header.printed) != self.shown:
            self._show_printed()
        return 0

    cdef int _show_printed(self) except -1:
        cdef uint32_t printed = ff_load32(&self.memory.header.printed)
        if self.show_output is not None and self.is_mine():
            self.show_output()
        self.shown = printed        # only now: another thread that finds it returns at once
        return 0

    cdef object value_of(self, uint32_t index):
        """Return the value of a finished slot that the caller references, or raise its error."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Reader source
        if status_of(slot.state) == FAILED:
            raise self.error_of(index)
        source = reader_of(self, slot, RESULT)
        if slot.result_kind & KIND_CAPTURED:
            return self.captured_of(index)[1]
        if slot.result_kind & KIND_NATIVE:
            return self.read_native(&source)
        return self.read_pickled(&source)

    cdef object read_native(self, Reader *source):
        try:
            return self.read(source, None)
        except UnicodeDecodeError as error:     # a writer has written UTF-8
            raise self.damage() from error

    cdef object read_pickled(self, Reader *source):
        try:
            return self.read(source, None)
        except BaseException as error:
            self.check_damage()
            raise self.pickling.unreadable(error) from error

    cdef int check_damage(self) except -1:
        if self.memory.damaged:
            raise self.damage()
        return 0

    cdef tuple captured_of(self, uint32_t index):
        """Return what a finished call printed, and its value, None for a failure; (None, None): it was not captured."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Reader source
        if status_of(slot.state) == FAILED:
            failure = None if slot.result_bytes <= 1 else self.failure_of(slot)
            return (failure[2] if failure is not None and len(failure) == 3 else None), None
        if not slot.result_kind & KIND_CAPTURED:
            return None, None
        source = reader_of(self, slot, RESULT)
        captured = self.read_pickled(&source)
        if type(captured) is not tuple or len(captured) != 2:
            raise self.damage()
        return captured

    cdef object read(self, Reader *source, list values):
        """Read a value at an address, or a call's arguments, and forget the classes and members that it named."""
        try:
            return decode_native(source, self, values)
        finally:
            if self.known_count:
                self.forget_known()

    cdef object error_of(self, uint32_t index):
        """Return a fresh copy of a failed slot's error. One without bytes found the store full."""
        cdef Slot *slot = &self.memory.slots[index]
        self.show_printed()
        if slot.result_bytes == 0:
            return self.full(0)
        if is_cancelled(slot):
            return self.pickling.cancelled_error()
        error = self.pickling.load_error(*self.failure_of(slot))
        # What a call has printed that was captured came with its error.
        if self.output_of is not None and isinstance(error, WorkerDiedError) and error.pid is not None and not error.output:
            error.output = self.output_of(error.pid)
        return error

    cdef tuple failure_of(self, Slot *slot):
        """Return what stands in the place of a failed slot's value."""
        cdef Reader source
        source.begin = source.at = data_of(&self.memory, slot, RESULT)
        source.end = end_of_value(&self.memory, slot, RESULT)
        return read_failure(self, source)

    cdef bint cancel(self, uint32_t index, bint force) except -1:
        """Cancel the call of a slot that the caller references; return whether it has no outcome of its own.

        `force`: ask the supervisor to end a call that has begun; `await_forced_end` tells whether it does.
        """
        cdef Slot *slot = &self.memory.slots[index]
        if not self.is_mine():
            self.check()
        if cancel_unstarted(&self.memory, index):
            return True
        if force and not is_finished(&self.memory, index) and not self.closed:
            slot.flags |= CALL_UNWANTED
            if slot.service != NO_SERVICE:
                service = service_number(&self.memory, slot.service)
                self.keep_spare(service, self.memory.services[service].generation)
            alarm_by(&self.memory, <uint64_t> ff_now_ns())
        return self.is_cancelled_at(index)

    cdef bint is_cancelled_at(self, uint32_t index) noexcept:
        """Return whether the outcome of a slot is that it was cancelled, or cannot be anything else any more."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef uint32_t status = status_of(ff_load64(&slot.state))
        return status == ENDING and slot.flags & CALL_UNWANTED != 0 or status == FAILED and is_cancelled(slot)

    cdef bint await_forced_end(self, SlotReference handle, int64_t deadline) except -1:
        """Return whether a call that `cancel` wants ended by force is, once it has an outcome."""
        while not self.inline and not is_finished(&self.memory, handle.index):
            if ff_now_ns() >= deadline or self.closed:
                break
            try:
                self.wait_one(handle, min(deadline, ff_now_ns() + LOOK_NS))
            except TimeoutError:
                continue
        return self.is_cancelled_at(handle.index)

    cdef int check_waitable(self) except -1:
        """Raise when no unfinished call will ever finish here."""
        if self.closed and self.is_mine():
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"this call had not finished when its runner {self.name!r} {self.ending}; it was dropped")
        return self.check()

    cdef int wait_one(self, SlotReference handle, int64_t deadline) except -1:
        """Return once the slot is finished; raise TimeoutError, INVALID_STATE or KeyboardInterrupt otherwise."""
        cdef OneWait wait
        if not (self.is_mine() and is_finished(&self.memory, handle.index)):
            wait = OneWait.__new__(OneWait)
            wait.memory = &self.memory
            wait.index = handle.index
            self.wait_for(wait, deadline)
        return self.show_printed()

    cdef int wait_for(self, Wait wait, int64_t deadline) except -1:
        """Return once the wait is over: spin, then sleep.

        Helping: a task that waits runs what it waits for meanwhile, or asks for a worker.
        """
        cdef int found
        cdef bint in_task = self.memory.processes[self.me].current != 0 and self.task_thread == PyThread_get_thread_ident()
        if self.is_mine() and wait.ready():
            return 0
        self.check_waitable()
        if deadline >= 0 and ff_now_ns() >= deadline:
            raise out_of_time()
        if not in_task:
            with nogil:
                found = spin_for(&self.memory, wait)
            if found and wait.ready():
                return 0
        wait.watch()
        try:
            return self._sleep_until(wait, deadline, in_task)
        finally:
            wait.unwatch()

    cdef int _sleep_until(self, Wait wait, int64_t deadline, bint in_task) except -1:
        cdef Process *process = &self.memory.processes[self.me]
        cdef uint64_t current = process.current
        cdef bint needs_help = current != 0 and process.role == ROLE_POOL, blocked = False, seen_before = False
        cdef int64_t left, slice_ns = PATIENCE_NS if needs_help else SLICE_NS
        cdef uint32_t seen
        cdef Suspicion suspicion = Suspicion(called=ff_now_ns(), unlikely_since=0)
        try:
            while True:
                seen = ff_load32(&process.wake)
                if wait.ready():
                    return 0
                self.check_waitable()
                if in_task and self._begins_deadlock(wait, current - 1, deadline >= 0, seen_before):
                    raise deadlock_error()
                seen_before = True
                if in_task and deadline < 0 and needs_help and self._help_unblocked(wait, blocked):
                    continue
                left = slice_ns
                if deadline >= 0:
                    left = min(left, deadline - ff_now_ns())
                    if left <= 0:
                        raise out_of_time()
                with nogil:
                    if sleep_for_futures(&self.memory, self.me, seen, left):
                        call_for_queued(&self.memory)       # the seeker may be stopped
                PyErr_CheckSignals()
                wait.look_again()
                self._suspect(wait.awaited(), &suspicion)
                if needs_help and not blocked and not wait.ready():
                    blocked = True
                    slice_ns = SLICE_NS
                    self.set_blocked(True)
        finally:
            if in_task:
                wait.retract(self, current - 1)
            if blocked:
                self.set_blocked(False)

    cdef int _suspect(self, int64_t index, Suspicion *suspicion) except -1:
        """Look whether the segment was overwritten, so that a wait without end ends in an error. `index`: of `awaited`."""
        cdef int64_t now = ff_now_ns()
        if not is_header_sound(&self.memory):
            raise self.damage()
        if not self._is_unlikely(index):
            suspicion.unlikely_since = 0
        elif suspicion.unlikely_since == 0:
            suspicion.unlikely_since = now
        elif now - suspicion.unlikely_since > UNLIKELY_NS:
            raise self.damage()
        if now - suspicion.called > FORGOTTEN_NS:       # the count of sleepers may have been overwritten
            suspicion.called = now
            if index >= 0 and status_of(ff_load64(&self.memory.slots[index].state)) == READY:
                with nogil:
                    wake_everybody(&self.memory)
        return 0

    cdef bint _is_unlikely(self, int64_t index) noexcept:
        """Return whether a slot that somebody references is in a state that cannot last: free, or run by no process."""
        cdef uint64_t state
        cdef uint32_t status
        if index < 0:
            return False
        state = ff_load64(&self.memory.slots[index].state)
        status = status_of(state)
        if status == RUNNING or status == ENDING:
            return ff_load32(&self.memory.processes[owner_of(state)].state) != PROCESS_LIVE
        return status == FREE or status >= LEAVING

    cdef bint _begins_deadlock(self, Wait wait, uint32_t task, bint timed, bint seen_before) except -1:
        """Return whether a wait can never end, where that is not known yet.

        A wait with a time-out is looked at when it begins. It is not published: what waits for its task need not wait for
        ever.
        """
        if seen_before if timed else not wait.publish(self, task):
            return False
        return self._never_ends(task, wait.targets())

    cdef bint _help_unblocked(self, Wait wait, bint blocked) except -1:
        """Run something that the wait needs; meanwhile this process is not blocked: no worker may take over its permit."""
        if blocked:
            ff_exchange32(&self.memory.processes[self.me].blocked, 0)
        try:
            return self.help(wait)
        finally:
            if blocked:
                ff_exchange32(&self.memory.processes[self.me].blocked, 1)

    cdef bint help(self, Wait wait) except -1:
        """Helping: run a task that the wait needs in this process; False when there is none. See `Worker`."""
        return False

    cdef bint _never_ends(self, uint32_t current, list targets) except -1:
        """Return whether the wait is a deadlock. Two searches must agree: one may meet a task in the middle of a change."""
        return never_ends(&self.memory, current, targets) and never_ends(&self.memory, current, targets)

    cdef set_blocked(self, bint blocked):
        """Tell the supervisor (zygote) whether any thread of this task waits for others: the pool then lacks a worker."""
        cdef bint before = self.blocked_threads > 0
        self.blocked_threads += 1 if blocked else -1
        if (self.blocked_threads > 0) == before:
            return
        ff_exchange32(&self.memory.processes[self.me].blocked, blocked)
        if blocked:
            wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)
        ring_bell(self.doorbell)

cdef tuple read_failure(Values runtime, Reader source):
    """Return the parts of a failure, for `pickling.load_error`, behind their checksum: they say what is loaded."""
    cdef uint64_t sum = take_word(runtime, &source)
    if checksum(source.at, source.end - source.at) != sum:
        raise runtime.damage()
    failure = decode_native(&source, runtime, None)
    if type(failure) is not tuple:
        raise runtime.damage()
    return failure
