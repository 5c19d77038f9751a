# Limits of calls: when they are due, and how a call that failed is tried again.
#
# Who makes a time-out, a deadline or a pause between attempts known lowers Header.alarm to it, and rings the supervisor's
# bell if that moved. The supervisor takes the alarm back, looks at all calls with a policy, and sets the alarm to what is
# due next. So a stream of calls with one time-out wakes it once per time-out, not once per call.
#
# Guarantees: nothing due is missed (PROTOCOL.md, S23). A retry that a death interrupts is finished by recovery: `promoting`
# names the task.

from libc.stdint cimport uint32_t, uint64_t
from .externs cimport ff_cas64, ff_exchange64, ff_load64, ff_now_ns, ff_store32, ff_store64
from .layout cimport CALL_UNWANTED, READY, WAITING, Policy, Slot
from .regions cimport Memory
from .lookup cimport queue_of, with_status
from .wakeup cimport ring_bell, wake_queue
from .run_queue cimport queue_push
from .completion cimport is_ending

cdef enum:
    #: Doublings of the pause between attempts.
    MOST_DOUBLINGS = 20

cdef inline int alarm_lower(Memory *memory, uint64_t when) noexcept nogil:
    """Lower the alarm to a time; return 0 if it was not later."""
    cdef uint64_t *alarm = &memory.header.alarm
    cdef uint64_t before = ff_load64(alarm)
    while before == 0 or when < before:
        if ff_cas64(alarm, before, when):
            return 1
        before = ff_load64(alarm)
    return 0

cdef inline void alarm_by(Memory *memory, uint64_t when) noexcept nogil:
    """Have the supervisor look at limits at a time."""
    # S23: pairs with the exchange of the alarm in `Limits.due_calls`; what is due was published before.
    if alarm_lower(memory, when):
        ring_bell(memory.doorbell)

cdef inline uint64_t end_of(Policy *policy) noexcept nogil:
    """Return when a running attempt has to end; 0: at any time."""
    cdef uint64_t end = policy.began + policy.timeout if policy.timeout else policy.deadline
    return min(end, policy.deadline) if policy.deadline else end

cdef inline void policy_begin(Memory *memory, uint32_t index) noexcept nogil:
    """Start the clock of an attempt."""
    cdef Policy *policy = &memory.policies[index]
    cdef uint64_t end
    # S23: a full barrier before the look at the alarm.
    ff_exchange64(&policy.began, <uint64_t> ff_now_ns())
    end = end_of(policy)
    if end:
        alarm_by(memory, end)

cdef inline int may_retry(Memory *memory, uint32_t index, uint32_t cause) noexcept nogil:
    """Tell whether a call is tried again after a failure of this kind (RETRY_*)."""
    cdef Policy *policy = &memory.policies[index]
    if policy.deadline and <uint64_t> ff_now_ns() >= policy.deadline or memory.slots[index].flags & CALL_UNWANTED:
        return 0
    return policy.attempts < policy.retries and policy.retry_on & cause != 0

cdef inline uint64_t pause_of(Policy *policy) noexcept nogil:
    """Return the pause before the next attempt."""
    return policy.backoff << min(policy.attempts, <uint32_t> MOST_DOUBLINGS)

cdef inline int retry(Memory *memory, uint32_t index, uint64_t pause) noexcept nogil:
    """Queue a call again whose attempt failed and that this process owns, at once or after a pause.

    Return 0, and change nothing, if the supervisor is ending this process because of the call.
    """
    cdef Slot *slot = &memory.slots[index]
    cdef Policy *policy = &memory.policies[index]
    cdef uint64_t state = ff_load64(&slot.state), not_before = <uint64_t> ff_now_ns() + pause if pause else 0
    if is_ending(memory, state):
        return 0
    policy.attempts += 1
    policy.not_before = not_before
    ff_store64(&policy.began, 0)
    ff_store32(&slot.started, 0)
    ff_store64(&memory.processes[memory.me].promoting, index + 1)
    if not ff_cas64(&slot.state, state, with_status(state, WAITING if pause else READY, 0)):
        policy.attempts -= 1
        ff_store32(&slot.started, 1)
        ff_store64(&memory.processes[memory.me].promoting, 0)
        return 0
    if pause:
        alarm_by(memory, not_before)
    else:
        queue_again(memory, queue_of(memory, slot), index)
    ff_store64(&memory.processes[memory.me].promoting, 0)
    return 1

cdef inline void queue_again(Memory *memory, uint32_t queue, uint32_t index) noexcept nogil:
    queue_push(memory, queue, index)
    wake_queue(memory, queue)

cdef inline void retry_now(Memory *memory, uint32_t index, uint64_t state) noexcept nogil:
    """Queue a call whose pause is over and whose state was `state`."""
    cdef Slot *slot = &memory.slots[index]
    cdef uint32_t queue = queue_of(memory, slot)
    ff_store64(&memory.processes[memory.me].promoting, index + 1)
    if ff_cas64(&slot.state, state, with_status(state, READY, 0)):
        queue_again(memory, queue, index)
    ff_store64(&memory.processes[memory.me].promoting, 0)
