# Limits of calls, as the supervisor keeps them: what is due, what is ended by force, and what a dead process had begun.
# uses: client

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from .core.externs cimport ff_cas64, ff_exchange64, ff_load64, ff_now_ns
from .core.layout cimport (
    CALL_CAPTURED, CALL_KEPT, CALL_LIMITED, CALL_POLICY, CALL_UNWANTED, ENDING, FAILED, INLINE_BYTES, KIND_NUMBERED,
    KIND_PICKLE, NO_SERVICE, PAYLOAD, READY, RETRY_DEATH, RETRY_TIMEOUT, ROLE_INSTANCE, ROLE_POOL, RUNNING, WAITING,
    Policy, Process, Slot,
)
from .core.regions cimport Memory
from .core.lookup cimport body_of, end_of_value, next_taken, owner_of, slots_used, status_of, with_status
from .core.completion cimport finish, leave_queue, write_result
from .core.policy cimport alarm_lower, end_of, may_retry, retry_now

cdef enum:
    MOST_DUE = 256              # calls that one look at limits finds: the others are found by the next
    LOOK_SHARE = 4              # looks take at most a fifth of the supervisor's time
    UNSTARTED_NS = 1_000_000    # until a claimed call has begun
    MOST_DESCRIBED = 1 << 12    # bytes of the arguments of a lost call that are looked at

cdef class DueCall:
    """A call past a limit, or one that is to be ended by force, as it was at one moment."""
    cdef readonly uint32_t slot, service, method
    cdef readonly bint running, unwanted
    cdef readonly double allowed        # seconds from its submission to its deadline
    cdef readonly uint32_t process      # the one that runs it
    cdef readonly list earlier          # texts of the attempts that failed, once it is claimed
    cdef uint64_t state

cdef DueCall due_call(uint32_t index, uint64_t state, bint running, bint unwanted, Slot *slot, Policy *policy):
    cdef DueCall call = DueCall.__new__(DueCall)
    call.slot, call.service, call.method = index, slot.service, slot.method
    call.state, call.running, call.unwanted, call.process = state, running, unwanted, owner_of(state)
    call.allowed = policy.allowed / 1e9
    call.earlier = []
    return call

cdef class LostCall:
    """A call that a dead process had begun."""
    cdef readonly uint32_t slot, service, method
    cdef readonly uint32_t attempts     # this one included
    cdef readonly double timeout        # seconds of run time that it had
    cdef readonly double allowed        # seconds from its submission to its deadline
    cdef readonly bint by_force         # its process was ended because of it
    cdef readonly bint unwanted         # and that because its creator asked for it
    cdef readonly bint past_deadline
    cdef readonly bint retried          # its policy has it tried again
    cdef readonly bint captured         # what it printed is kept for its future
    cdef readonly list earlier          # texts of the attempts before this one
    cdef readonly double seconds        # that it had run; -1: not known, it had another one run inside its wait
    cdef readonly bytes arguments       # the first bytes of its payload, as the codec wrote it; empty: they are freed
    cdef readonly bint pickled          # they are one pickle
    cdef readonly uint64_t nbytes       # of all of it

cdef class Limits:
    """Finds the calls that are past a limit, and those that a dead process had begun; ends them for its caller."""
    cdef Client client
    cdef Memory *memory

    def __init__(self, Client client not None):
        self.client = client
        self.memory = &client.memory

    @property
    def alarm(self):
        """When to call `due_calls`, in nanoseconds of the monotonic clock; 0: no call is ever due."""
        return ff_load64(&self.memory.header.alarm)

    def look_soon(self):
        """Set the alarm to now: a process that died may not have set it."""
        alarm_lower(self.memory, <uint64_t> ff_now_ns())

    def due_calls(self):
        """Return a list of `DueCall`: calls past their limits, and those that are to be ended by force. Set the alarm anew.

        Calls whose pause between attempts is over are queued again.
        """
        cdef uint64_t began = <uint64_t> ff_now_ns(), when, soonest = 0
        cdef uint32_t i
        found = []
        ff_exchange64(&self.memory.header.alarm, 0)          # S23: pairs with `alarm_by`
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            if self.memory.slots[i].flags & (CALL_LIMITED | CALL_KEPT | CALL_UNWANTED):
                when = self._when_due(i, &self.memory.slots[i], began, found)
                if when and (soonest == 0 or when < soonest):
                    soonest = when
                if len(found) == MOST_DUE:
                    soonest = began
                    break
            i = next_taken(self.memory, i + 1)
        if soonest:         # many limits, one after the other, leave time for something else
            alarm_lower(self.memory, max(soonest, <uint64_t> (ff_now_ns() + LOOK_SHARE * (ff_now_ns() - <int64_t> began))))
        return found

    cdef uint64_t _when_due(self, uint32_t index, Slot *slot, uint64_t now, list found) except? 0:
        """Return when a call is due next, 0 for never; add it to `found` if it is now."""
        cdef Policy *policy = &self.memory.policies[index]
        cdef uint64_t state, when
        cdef uint32_t status
        cdef bint unwanted
        while True:
            state = ff_load64(&slot.state)
            status = status_of(state)
            unwanted = slot.flags & CALL_UNWANTED != 0
            when = 0
            if status == RUNNING and self._is_workers(slot, owner_of(state)):
                if unwanted:
                    when = now if slot.started else now + UNSTARTED_NS      # it has just been claimed
                elif slot.flags & CALL_LIMITED:         # before it has begun it loads its service
                    when = end_of(policy) if policy.began else policy.deadline
            elif status == WAITING or status == READY:
                # Unwanted: its attempt failed, and it was queued again, while its creator asked for its end.
                when = now if unwanted else policy.deadline if slot.flags & CALL_LIMITED else 0
                if status == WAITING and slot.flags & CALL_KEPT and policy.not_before and not unwanted:
                    if policy.not_before <= now:
                        retry_now(self.memory, index, state)
                        continue
                    when = min(when, policy.not_before) if when else policy.not_before
            if ff_load64(&slot.state) == state:         # else what was read may be of something else
                break
        if not when or when > now:
            return when
        found.append(due_call(index, state, status == RUNNING, unwanted, slot, policy))
        return 0

    cdef bint _is_workers(self, Slot *slot, uint32_t owner) noexcept:
        """Return whether a worker has claimed a call. What the driver owns is a promise, or is being failed."""
        return slot.service != NO_SERVICE and self.memory.processes[owner].role in (ROLE_POOL, ROLE_INSTANCE)

    def condemn(self, DueCall call not None):
        """Keep the process that runs a call from finishing it: the caller ends it then. False: the call does not run."""
        # S24: pairs with the cas in `publish_outcome` and in `retry`
        return bool(ff_cas64(&self.memory.slots[call.slot].state, call.state,
                             with_status(call.state, ENDING, owner_of(call.state))))

    def claim_due(self, DueCall call not None):
        """Claim a call that does not run, for `fail_claimed`. False: it runs, or has an outcome, by now."""
        if not ff_cas64(&self.memory.slots[call.slot].state, call.state,
                        with_status(call.state, RUNNING, self.memory.me)):
            return False
        if self.memory.slots[call.slot].flags & CALL_POLICY:
            call.earlier = self.client.history(call.slot)
        return True

    def fail_claimed(self, DueCall call not None, bytes error):
        """Fail a call that `claim_due` has claimed."""
        write_result(self.memory, call.slot, PyBytes_AS_STRING(error), len(error))
        leave_queue(self.memory, &self.memory.slots[call.slot])
        finish(self.memory, call.slot, FAILED, NULL)

    def lost_calls(self, uint32_t index):
        """Return a list of `LostCall`: the calls that a dead process had begun."""
        cdef uint32_t i
        cdef uint64_t state
        found = []
        i = next_taken(self.memory, 0)
        while i < slots_used(self.memory):
            state = ff_load64(&self.memory.slots[i].state)
            if owner_of(state) == index and (status_of(state) == ENDING or (
                    status_of(state) == RUNNING and self.memory.slots[i].started
                    and self.memory.slots[i].service != NO_SERVICE)):
                found.append(self._lost_call(i, status_of(state) == ENDING))
            i = next_taken(self.memory, i + 1)
        return found

    cdef void _note_run(self, LostCall call, Slot *slot):
        """Note how long a call had run, and its arguments. A payload that is damaged is none."""
        cdef Process *process = &self.memory.processes[owner_of(slot.state)]
        cdef const char *body
        cdef int64_t left
        call.seconds = (ff_now_ns() - <int64_t> process.began_at) / 1e9 if process.current == call.slot + 1 else -1
        call.arguments, call.pickled, call.nbytes = b"", slot.payload_kind & KIND_PICKLE != 0, slot.payload_bytes
        # A process may die between the two steps that free a block.
        if slot.payload_kind and (slot.payload or slot.payload_bytes <= INLINE_BYTES):
            body = body_of(self.memory, slot, PAYLOAD)
            if slot.payload_kind & KIND_NUMBERED:
                body += 8
            left = end_of_value(self.memory, slot, PAYLOAD) - body
            if left > 0:
                call.arguments = PyBytes_FromStringAndSize(body, min(left, <int64_t> MOST_DESCRIBED))

    cdef LostCall _lost_call(self, uint32_t index, bint by_force):
        cdef LostCall call = LostCall.__new__(LostCall)
        cdef Slot *slot = &self.memory.slots[index]
        cdef Policy *policy = &self.memory.policies[index]
        call.slot, call.service, call.method = index, slot.service, slot.method
        call.by_force, call.unwanted = by_force, by_force and slot.flags & CALL_UNWANTED
        call.captured = slot.flags & CALL_CAPTURED != 0
        call.timeout = call.allowed = 0
        call.attempts = 1
        call.earlier = []
        self._note_run(call, slot)
        if slot.flags & CALL_POLICY:
            call.timeout, call.allowed = policy.timeout / 1e9, policy.allowed / 1e9
            call.attempts = policy.attempts + 1
            call.past_deadline = policy.deadline and <uint64_t> ff_now_ns() >= policy.deadline
            call.retried = slot.flags & CALL_KEPT and may_retry(
                self.memory, index, RETRY_TIMEOUT if by_force else RETRY_DEATH)
            call.earlier = self.client.history(index)
        return call
