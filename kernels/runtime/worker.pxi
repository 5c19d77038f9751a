# The worker loop: find a task, claim it, run it, finish it; sleep when there is none.
# uses: python_api, views, array_allocator, fork, reader, integer_list, arrays, decode, waits, deadlock, call_policy, client

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from .core.externs cimport (
    ff_add32, ff_cas32, ff_cas64, ff_coarse_ns, ff_exchange64, ff_futex_wait, ff_load32, ff_load64, ff_now_ns, ff_pause,
    ff_store32, ff_store64,
)
from .core.layout cimport (
    CALL_CAPTURED, CALL_KEPT, CALL_LIMITED, CALL_POLICY, DONE, FAILED, KIND_CAPTURED, KIND_MAP, KIND_NATIVE, KIND_NUMBERED,
    KIND_STATE,
    MAP_ALL, MAP_STAR, PAYLOAD, POOL_QUEUES, PROCESS_LIVE, PROCESS_STARTING, QUEUE_CLOSING, QUEUE_FREE, QUEUE_OPEN,
    READY, RETRY_DEATH, RETRY_ERRORS, RETRY_TIMEOUT, ROLE_INSTANCE, ROLE_POOL, ROLE_SPARE, RUNNING, SERVICE_OPEN,
    STANDING_BY, STANDING_CALLED, STANDING_NOT, WAITERS_CLOSED, Dependencies, DependencyEdge, Policy, Process, RunQueue,
    Service, Slot,
)
from .core.bounds cimport service_number, slot_number
from .core.lookup cimport (
    dependencies_of, dependency_count, edges_of, home_of, instance_queues_used, pool_queues_used, process_word,
    services_used, status_of, with_status,
)
from .core.spinning cimport SPIN_FREE_NS, spin_budget, spin_ended, token_acquire, token_release
from .core.wakeup cimport IDLE_NS, seek_begin, seek_end, seek_on, sleep_begin, sleep_end, sleep_for_futures, wake_queue
from .core.permits cimport has_permit, permit_acquire, permit_release
from .core.slots cimport value_free
from .core.run_queue cimport CLAIM_EMPTY, queue_claim, queue_empty, queue_trim
from .core.completion cimport await_end, finish, write_result
from .core.policy cimport may_retry, pause_of, policy_begin, retry

cdef extern from "Python.h":
    int PyCoro_CheckExact(object value)
    int PyGen_CheckExact(object value)
    int PyAsyncGen_CheckExact(object value)

cdef extern from "Python.h":
    object PyContextVar_Set(object variable, object value)

cdef inline bint is_plain_value(object value) noexcept:
    """Return whether a result needs no further code to run, which the host would run."""
    return not (PyCoro_CheckExact(value) or PyGen_CheckExact(value) or PyAsyncGen_CheckExact(value))

cdef enum:
    MOST_HELPS = 100            # tasks that may run inside each other's waits, on one stack

cdef bint is_deep() except -1:
    """Return whether a task on top of this stack would find less than half of the frames that Python allows."""
    cdef int depth = 0, most = sys.getrecursionlimit() // 2
    frame = sys._getframe()
    while frame is not None and depth < most:
        depth += 1
        frame = frame.f_back
    return frame is not None

cdef struct TaskFrame:          # what runs in this process when a task begins on top of it
    uint64_t current            # Process.current
    unsigned long thread        # the thread that runs it
    bint between_tasks

cdef class Worker(Client):
    """Role of a process that runs tasks: a worker, or the driver itself with the inline engine."""
    cdef object host
    cdef list partial           # the host's: not empty while some output is not written yet; None: there is no such list
    cdef int64_t next_task      # claimed already: the last outcome made it ready; -1: none
    cdef int helps              # waits of this process inside of which it runs a task
    cdef object function        # of the last call; None: the host must be asked
    cdef uint32_t function_service, function_method
    cdef uint64_t function_generation
    cdef object passed_on       # array of slot `passed_slot` for `next_task`; None: read it from the slot
    cdef uint32_t passed_slot
    cdef uint32_t next_queue
    cdef uint32_t warm_seen             # Header.warm_left when this worker last found nothing to load ahead
    cdef set warmed                     # services it has counted as loaded
    cdef bint handler_due               # the memory handler is to be set once more, in the context of tasks
    cdef object numbered                 # context variable with the running `NumberedCall`; None: there has been none yet
    cdef tuple seed                      # of the service of the last such call
    cdef uint32_t seed_service
    cdef uint64_t seed_generation
    cdef set busy_queues                 # inline: instances that a task of theirs is running on
    cdef public uint64_t max_tasks      # after which a pool worker leaves, and another takes its place; 0: it stays
    cdef uint64_t tasks_run

    def __cinit__(self):
        self.next_task = -1

    def claim_entry(self, uint32_t token, uint32_t pid, uint64_t started_at):
        """Makes the entry of this process, which has just been forked, its own; false if it was called off: it must leave.

        `started_at` : when the process started, see `flame_fast.engine.spawn.start_time`.
        """
        cdef Process *process = &self.memory.processes[self.me]
        # S22: pairs with `start`
        if not ff_cas64(process_word(process), <uint64_t> token << 32 | PROCESS_STARTING,
                        <uint64_t> pid << 32 | PROCESS_LIVE):
            return False
        ff_store64(&process.started_at, started_at)
        return True

    def install_array_allocator(self):
        """From now on NumPy arrays that tasks of this process make are born in the segment, if larger than 32 KiB."""
        install_array_allocator(self)
        self.handler_due = True

    def is_first_warning(self):
        """Whether no other process of this runner has warned of generators that imports seed."""
        return bool(ff_cas32(&self.memory.header.warned, 0, 1))

    def note_output(self):
        """Have the driver show what this process has written to it, before anybody there gets an outcome of later."""
        # S26: pairs with `show_printed`; the outcome is published after.
        ff_add32(&self.memory.header.printed, 1)

    def serve(self, host):
        """Run the tasks of this process's queues until told to leave.

        `host` (see `flame_fast.engine.worker`) loads services, writes errors, and holds the list `partial`, not empty while
        some output has not been written yet.
        """
        cdef Process *process = &self.memory.processes[self.me]
        cdef int64_t index
        self.partial = host.partial
        self.warmed = set()
        self.host = host
        self.task_thread = PyThread_get_thread_ident()
        self.between_tasks = True
        if ff_load32(&process.role) == ROLE_SPARE:
            self._stand_by(host)
        if process.role == ROLE_INSTANCE:
            self._load_instance(host)
        while True:
            index = self.next_task
            self.next_task = -1
            if index < 0:
                index = self._find_task()
            if index == CLAIM_EMPTY:
                if self._load_ahead(host):
                    continue
                host.flush()
                with nogil:
                    index = self._wait_for_task()
                if index == CLAIM_EMPTY:
                    if self._shall_leave():
                        return
                    PyErr_CheckSignals()
                    continue
            self._run(host, <uint32_t> index)
            self.tasks_run += 1
            if self.max_tasks and self.tasks_run >= self.max_tasks and process.role == ROLE_POOL:
                ff_store32(&process.retiring, 1)

    def mark_stateful(self):
        """Note that this process holds a class service's object: the supervisor does not replace it."""
        self.memory.processes[self.me].stateful = 1

    def serve_inline(self):
        """Make this process run all tasks itself, at `run_queued`; no worker will come."""
        self.inline = True
        self.busy_queues = set()
        self.memory.header.cache_limit = 0      # no supervisor would return cached extents to the system

    def run_queued(self, host):
        """Run what is queued in every queue, in this thread: the inline engine's worker.

        A call of an instance that is just running stays queued until that one is over, as in a process of its own.
        """
        cdef TaskFrame frame = self._frame()
        self.task_thread = PyThread_get_thread_ident()
        try:
            while self._run_each_queue(host):    # what one queue finishes may make another's task ready
                pass
        finally:
            self._return_to(&frame)

    cdef TaskFrame _frame(self) noexcept:
        """Return what runs in this process now, for `_return_to`."""
        return TaskFrame(self.memory.processes[self.me].current, self.task_thread, self.between_tasks)

    cdef void _return_to(self, TaskFrame *frame) noexcept:
        self.between_tasks = frame.between_tasks
        self.task_thread = frame.thread
        ff_exchange64(&self.memory.processes[self.me].current, frame.current)

    cdef int _run_each_queue(self, host) except -1:
        """Run what is queued; return how many calls that were."""
        cdef uint32_t queue
        cdef int count = 0
        for queue in range(pool_queues_used(&self.memory)):
            count += self._run_queue(host, queue)
        for queue in range(POOL_QUEUES, instance_queues_used(&self.memory)):
            count += self._run_queue(host, queue)
        return count

    cdef int _run_queue(self, host, uint32_t queue) except -1:
        cdef uint32_t home = home_of(&self.memory, queue)
        cdef int64_t index
        cdef int count = 0
        if self.memory.queues[queue].state == QUEUE_FREE or home in self.busy_queues:
            return 0
        if self.memory.queues[queue].ordered:
            self.busy_queues.add(home)
        try:
            while True:
                index = queue_claim(&self.memory, queue)
                if index == CLAIM_EMPTY:
                    return count
                self._run(host, <uint32_t> index)
                count += 1
        finally:
            self.busy_queues.discard(home)

    cdef bint _shall_leave(self) noexcept nogil:
        cdef Process *process = &self.memory.processes[self.me]
        if ff_load32(&self.memory.header.closing) or ff_load32(&process.retiring):
            return True
        return process.role == ROLE_INSTANCE and ff_load32(&self.memory.queues[process.queue].state) == QUEUE_CLOSING

    cdef int64_t _find_task(self) noexcept nogil:
        cdef Process *process = &self.memory.processes[self.me]
        cdef RunQueue *queue
        cdef uint32_t high, i, at
        cdef int64_t index
        if ff_load32(&self.memory.header.closing) or ff_load32(&process.retiring):
            return CLAIM_EMPTY
        if process.role == ROLE_INSTANCE:
            return self._find_call(process.queue)
        high = pool_queues_used(&self.memory)
        if high == 1:
            return queue_claim(&self.memory, 0)
        if ff_load32(&self.memory.header.urgent_queues):
            index = self._find_urgent(high)
            if index != CLAIM_EMPTY:
                return index
        for i in range(high):
            at = (self.next_queue + i) % high
            queue = &self.memory.queues[at]
            if queue.state == QUEUE_FREE or queue.home or queue_empty(&self.memory, at):
                continue
            if queue.limit and not permit_acquire(&self.memory, at):
                continue
            index = queue_claim(&self.memory, at)
            if index != CLAIM_EMPTY:
                self.next_queue = at + 1
                return index
            if queue.limit and not queue.sticky:
                permit_release(&self.memory, at, self.me)
        return CLAIM_EMPTY

    cdef int64_t _find_call(self, uint32_t queue_index) noexcept nogil:
        """Claim the next call of an instance."""
        cdef uint32_t urgent = ff_load32(&self.memory.queues[queue_index].urgent)
        cdef int64_t index = queue_claim(&self.memory, urgent) if urgent else CLAIM_EMPTY
        return queue_claim(&self.memory, queue_index) if index == CLAIM_EMPTY else index

    cdef int64_t _find_urgent(self, uint32_t high) noexcept nogil:
        """Claim an urgent call of a queue that this worker may serve."""
        cdef uint32_t at, home
        cdef int64_t index
        for at in range(1, high):
            home = home_of(&self.memory, at)
            if home == at or self.memory.queues[at].state != QUEUE_OPEN or queue_empty(&self.memory, at):
                continue
            if self.memory.queues[home].limit and not permit_acquire(&self.memory, home):
                continue
            index = queue_claim(&self.memory, at)
            if index != CLAIM_EMPTY:
                return index
            if self.memory.queues[home].limit and not self.memory.queues[home].sticky:
                permit_release(&self.memory, home, self.me)
        return CLAIM_EMPTY

    cdef int64_t _wait_for_task(self) noexcept nogil:
        """Spin, then sleep; return CLAIM_EMPTY after a wake-up without a task."""
        cdef Process *process = &self.memory.processes[self.me]
        cdef bint instance = process.role == ROLE_INSTANCE
        cdef uint32_t *wake = &self.memory.queues[process.queue].wake if instance else &self.memory.header.pool_wake
        cdef int64_t start = ff_now_ns(), now, index = CLAIM_EMPTY, budget = spin_budget(&self.memory.for_tasks)
        cdef uint32_t calls
        cdef int i, token = 0, seeking = 0, woken = 0
        while True:
            for i in range(16):
                index = self._find_task()
                if index != CLAIM_EMPTY:
                    break
                ff_pause()
            if index != CLAIM_EMPTY or self._shall_leave():
                break
            if not token:
                token = token_acquire(&self.memory, self.me)
            if not seeking and not instance:
                seeking = seek_begin(&self.memory)
            now = ff_now_ns()
            if seeking:
                seek_on(&self.memory, now)
            if now - start > (budget if token else min(budget, SPIN_FREE_NS)):
                break
        if seeking:
            seek_end(&self.memory)
        if token:
            token_release(&self.memory, self.me)
        spin_ended(&self.memory.for_tasks, index != CLAIM_EMPTY)
        if index != CLAIM_EMPTY:
            return index
        process.sleeping = 1
        calls = sleep_begin(wake)
        index = self._find_task()           # S4: pairs with `queue_push`, then `needs_call` and `wake_sleepers`
        # S7: pairs with the fence in `wake_sleepers`
        if index == CLAIM_EMPTY and not self._shall_leave() \
                and ff_load32(&self.memory.header.warm_left) <= self.warm_seen:
            woken = ff_futex_wait(wake, calls, IDLE_NS) == 0
        process.sleeping = 0
        if not woken:
            sleep_end(wake, calls)
        return index

    cdef int _stand_by(self, host) except -1:
        """Load what a worker may need whose place this spare takes; return when the supervisor gives it a place."""
        cdef Process *process = &self.memory.processes[self.me]
        cdef uint32_t seen
        while True:
            seen = ff_load32(&process.wake)
            # S6: `wake` is read before what a waker has changed.
            if ff_load32(&process.role) != ROLE_SPARE or self._shall_leave():
                return 0
            if self._load_spare(host):
                continue
            host.flush()
            ff_cas32(&process.standing, STANDING_NOT, STANDING_BY)
            with nogil:
                sleep_for_futures(&self.memory, self.me, seen, IDLE_NS)
            PyErr_CheckSignals()

    cdef bint _load_spare(self, host) except -1:
        """Load one service that a spare worker shall have; return whether there was one."""
        cdef uint32_t *standing = &self.memory.processes[self.me].standing
        cdef uint32_t i
        cdef Service *entry
        for i in range(services_used(&self.memory)):
            entry = &self.memory.services[i]
            if not ff_load32(&entry.spare) or ff_load32(&entry.state) != SERVICE_OPEN:
                continue
            if (i, entry.generation) not in self.warmed:
                # Both: it may load already, or have to stop standing by for that.
                ff_cas32(standing, STANDING_BY, STANDING_NOT)
                if ff_load32(standing) == STANDING_CALLED:
                    return False
                self.warmed.add((i, entry.generation))
                host.load_ahead(i, entry.generation)
                return True
        return False

    cdef _load_instance(self, host):
        """Load the one service of an instance's process before its first call."""
        cdef uint32_t i
        for i in range(services_used(&self.memory)):
            if self.memory.services[i].queue == self.memory.processes[self.me].queue and \
                    ff_load32(&self.memory.services[i].state) == SERVICE_OPEN:
                host.load_ahead(i, self.memory.services[i].generation)
        ff_store32(&self.memory.processes[self.me].loaded, 1)

    cdef int _load_ahead(self, host) except -1:
        """Load one service whose `warmup` asks for it; return 0 if there is none for this worker.

        A service that a call made this worker load counts as well: `warmup` says how many workers have it.
        """
        cdef uint32_t i, left
        cdef Service *entry
        self.function = None
        self.warm_seen = ff_load32(&self.memory.header.warm_left)
        if not self.warm_seen or self.memory.processes[self.me].role != ROLE_POOL:
            return 0
        for i in range(services_used(&self.memory)):
            entry = &self.memory.services[i]
            left = ff_load32(&entry.warm_left)
            if ff_load32(&entry.state) != SERVICE_OPEN or not left or (i, entry.generation) in self.warmed:
                continue
            if self.memory.queues[entry.queue].limit and not permit_acquire(&self.memory, entry.queue):
                continue
            try:
                if ff_cas32(&entry.warm_left, left, left - 1):
                    ff_add32(&self.memory.header.warm_left, <uint32_t> -1)
                    self.warmed.add((i, entry.generation))
                    host.load_ahead(i, entry.generation)
                    return 1
            finally:
                if self.memory.queues[entry.queue].limit and not self.memory.queues[entry.queue].sticky:
                    permit_release(&self.memory, entry.queue, self.me)
                    wake_queue(&self.memory, entry.queue)
        return 0

    cdef _run(self, host, uint32_t index):
        """Execute a claimed task and finish it, whatever it raises.

        A call ends DONE with its result, or FAILED with the error that it raised, or that loading the service, reading
        the arguments or writing the result raised. A chunk of a map ends DONE whatever its items raise: the errors
        are among its outcomes (`_run_items`). A child that the task forks never finishes it.
        """
        cdef Slot *slot = &self.memory.slots[index]
        cdef Process *process = &self.memory.processes[self.me]
        cdef uint32_t queue_index = home_of(&self.memory, slot.queue), status = DONE
        cdef RunQueue *queue = &self.memory.queues[queue_index]
        cdef TaskFrame frame = self._frame()
        passed_on = None
        try:
            value = self._begin(host, index)
            if PyCoro_CheckExact(value) and self.helps == 0 and not self.inline and host.is_concurrent():
                host.run_concurrently(self, index, value)
                status = READY          # `end_call` finished it, or queued it again
            else:
                if not is_plain_value(value):
                    value = host.resolve_awaitable(value)
                passed_on = self._write_outcome(host, index, value)
            value = None
        except BaseException as problem:
            value = None                # an array of it may lie in the segment
            status = self._write_failure(host, index, problem)
        if self.numbered is not None:
            PyContextVar_Set(self.numbered, None)       # no Python code: a signal's handler must not raise here
        if self.pins:
            release_fork_pins(self)
        self._return_to(&frame)
        if self.partial:
            self._end_output(host)
        if status != READY:
            finish(&self.memory, index, status, &self.next_task if process.role == ROLE_POOL and self.helps == 0 else NULL)
        self.passed_on = passed_on if self.next_task >= 0 else None
        self.passed_slot = index
        if queue.limit and not queue.sticky and self.helps == 0:
            permit_release(&self.memory, queue_index, self.me)
            if not queue_empty(&self.memory, queue_index):
                wake_queue(&self.memory, queue_index)

    cdef int _end_output(self, host) except -1:
        """Write out what the call has printed whose outcome comes next.

        A call inside another's wait ends no line of that.
        """
        try:
            if self.helps:
                host.flush()
            else:
                host.end_lines()
        except KeyboardInterrupt:       # a signal sent to this worker: as between two tasks
            pass
        except BaseException:           # what another signal's handler raised
            sys.excepthook(*sys.exc_info())
        return 0

    cdef object _begin(self, host, uint32_t index):
        """Call a claimed task's function; return what it returned: perhaps a coroutine that has not begun."""
        cdef Slot *slot = &self.memory.slots[index]
        ff_store32(&slot.started, 1)
        self.memory.processes[self.me].began_at = <uint64_t> ff_coarse_ns()
        ff_exchange64(&self.memory.processes[self.me].current, index + 1)
        if self.handler_due:
            self.handler_due = False
            set_array_allocator()
        if slot.flags & CALL_LIMITED:
            self._check_deadline(host, index)
        if slot.flags & CALL_CAPTURED:
            host.begin_capture(index)
        return self._execute(host, slot)

    cdef object _write_outcome(self, host, uint32_t index, value):
        """Write what a call gave; return it if the next task may take it as it is, else None."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef bint is_map = slot.payload_kind & KIND_MAP != 0
        if not self.is_mine():
            os._exit(0)                 # a child that the task forked has reached the task's end: it is no worker
        if slot.flags & CALL_KEPT:
            self.forget_history(index)
        else:
            value_free(&self.memory, index, PAYLOAD)
        if is_map:
            self._write_items(host, index, value)
        elif slot.flags & CALL_CAPTURED:
            self._write_value(index, (host.end_capture(), value), True, KIND_CAPTURED)
        else:
            self._write_value(index, value, True)
            if self.helps == 0 and ff_load64(&slot.waiters) > WAITERS_CLOSED and is_as_it_came(self, value):
                return value
        return None

    cdef uint32_t _write_failure(self, host, uint32_t index, problem) except? 0:
        """Write what a call raised; return FAILED, or READY: it is queued again."""
        cdef uint16_t flags = self.memory.slots[index].flags
        if not self.is_mine():
            host.end_of_fork(problem)
        output = host.end_capture() if flags & CALL_CAPTURED else None
        if flags & CALL_KEPT and self._retry(index, problem):
            return READY
        self._write_error(host, index, problem, output)
        return FAILED

    # ---- calls beside the one that runs, see flame_fast.engine.concurrency -----------------------------------------------

    def queue_of(self, uint32_t index):
        """Return the queue of a call's service."""
        return home_of(&self.memory, self.memory.slots[index].queue)

    def claim_beside(self, uint32_t queue_index):
        """Claim the next call of a queue, for this process to run beside others; -1: there is none, or it must leave."""
        if self._shall_leave() or (self.max_tasks and self.tasks_run + 1 >= self.max_tasks):
            return -1
        return self._find_call(queue_index)

    def others_wait(self, uint32_t queue_index):
        """Return whether calls of other services wait for a worker of the pool, which this process is."""
        cdef uint32_t i
        if self.memory.processes[self.me].role != ROLE_POOL:
            return False
        for i in range(pool_queues_used(&self.memory)):
            if home_of(&self.memory, i) != queue_index and self.memory.queues[i].state != QUEUE_FREE \
                    and not queue_empty(&self.memory, i):
                return True
        return False

    def begin_call(self, uint32_t index):
        """Call the function of a call that was claimed by `claim_beside`; return what it returned."""
        self.tasks_run += 1
        return self._begin(self.host, index)

    def end_call(self, uint32_t index, value, problem, int64_t other):
        """Finish a call that ran beside others. `other`: one of those that still run, -1: none does."""
        cdef uint32_t status = DONE
        if problem is None:
            try:
                self._write_outcome(self.host, index, value)
            except BaseException as error:
                problem = error
        value = None
        if problem is not None:
            status = self._write_failure(self.host, index, problem)
        if self.partial:
            self._end_output(self.host)
        # Not 0: while something runs, whoever waits in this process asks for a worker.
        ff_exchange64(&self.memory.processes[self.me].current, <uint64_t> (other if other >= 0 else index) + 1)
        if status != READY:
            finish(&self.memory, index, status, NULL)

    cdef int _write_error(self, host, uint32_t index, problem, output) except -1:
        """Write what a call raised, with the attempts before it as notes, and what it printed, if that was captured."""
        cdef bytes error
        try:
            for line in self.history(index):
                problem.add_note(line)
            error = host.dump_error(problem, output)
        except BaseException:           # a signal, or an exception that cannot even be described
            error = host.last_resort
        write_result(&self.memory, index, PyBytes_AS_STRING(error), len(error))
        return 0

    cdef bint _retry(self, uint32_t index, problem) except -1:
        """Queue a call again that raised, if its policy says so; return whether it is queued."""
        cdef Policy *policy = &self.memory.policies[index]
        cdef uint64_t pause
        try:
            if not may_retry(&self.memory, index, self._cause_of(index, problem)):
                return False
            self.write_history(index, [*self.history(index), self.pickling.attempt_text(policy.attempts + 1, problem)])
        except BaseException:           # no memory, or an exception that cannot even be described
            return False
        pause = pause_of(policy)
        if self.inline and pause:       # nobody else would look when it is over
            time.sleep(pause / 1e9)
            pause = 0
        if not retry(&self.memory, index, pause):
            await_end()
        return True

    cdef uint32_t _cause_of(self, uint32_t index, problem) except? 0:
        """Return which kinds of failure (RETRY_*) an exception is to the policy of a call."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Dependencies *dependencies = dependencies_of(&self.memory, slot)
        cdef uint32_t cause = 0
        if isinstance(problem, WorkerDiedError):
            cause |= RETRY_DEATH
        elif isinstance(problem, TaskTimeoutError):
            cause |= RETRY_TIMEOUT
        if self.memory.policies[index].retry_on & RETRY_ERRORS:         # their types are the last dependency
            last = dependency_count(&self.memory, dependencies) - 1
            if isinstance(problem, self.value_of(slot_number(&self.memory, edges_of(dependencies)[last].dependency))):
                cause |= RETRY_ERRORS
        return cause

    cdef int _check_deadline(self, host, uint32_t index) except -1:
        cdef Policy *policy = &self.memory.policies[index]
        cdef Slot *slot = &self.memory.slots[index]
        if policy.deadline and <uint64_t> ff_now_ns() >= policy.deadline:
            raise host.late_error(slot.service, slot.method, index, policy.allowed / 1e9, policy.attempts)
        return 0

    cdef object _execute(self, host, Slot *slot):
        """Call the user's function; return what it returns."""
        cdef Reader source = reader_of(self, slot, PAYLOAD)
        cdef Py_ssize_t count
        cdef uint64_t arguments
        cdef const char *numbers
        cdef int64_t first = -1
        function = self._function_of(host, slot)
        if slot.flags & CALL_POLICY:        # only now: a process's first call waits for imports, which may take seconds
            policy_begin(&self.memory, <uint32_t> (slot - self.memory.slots))
        if slot.payload_kind & KIND_NUMBERED:
            first = <int64_t> take_word(self, &source)
            self._find_seed(host, slot.service)
            self._begin_number(first)
        values = self._dependency_values(slot) if slot.dependencies else None
        if slot.payload_kind & KIND_MAP and slot.payload_kind & KIND_NATIVE and source.at[TUPLE_HEAD] == b'q':
            take(self, &source, 1)
            arguments = take_count(self, &source, 1)
            take(self, &source, 1)
            count = take_count(self, &source, 8)
            numbers = take(self, &source, 8 * count)
            mode = decode_native(&source, self, None) if arguments > 1 else 0
            return self._run_items(host, function, None, numbers, count, mode, first)
        if slot.payload_kind & KIND_NATIVE:
            args = self.read(&source, values)
            kwargs = self.read(&source, values)
        elif slot.payload_kind & KIND_STATE:
            state, args, kwargs = self.read(&source, values)
            function = host.with_state(function, state)
        else:
            args, kwargs = self.read(&source, values)
        values = None
        self.between_tasks = False
        forget_faults(self)
        if slot.payload_kind & KIND_MAP:
            return self._run_items(host, function, args[0], NULL, len(args[0]), args[1] if len(args) > 1 else 0, first)
        value = function(*args, **kwargs) if kwargs else function(*args)
        self.between_tasks = True
        forget_faults(self)
        return value

    cdef int _find_seed(self, host, uint32_t service) except -1:
        """Find the seed of a service whose function the host has just been asked for, and where to note its calls."""
        cdef uint64_t generation = self.memory.services[service_number(&self.memory, service)].generation
        if self.seed is None or service != self.seed_service or generation != self.seed_generation:
            self.seed = None
            variable, seed = host.seed_of_calls()
            self.numbered = variable
            self.seed_service, self.seed_generation, self.seed = service, generation, seed
        return 0

    cdef int _begin_number(self, int64_t number) except -1:
        """Note in this context that the call of this number runs from here on."""
        cdef NumberedCall call = NumberedCall.__new__(NumberedCall)
        call.seed = self.seed
        call.number = number
        PyContextVar_Set(self.numbered, call)
        return 0

    cdef object _function_of(self, host, Slot *slot):
        cdef uint32_t service = service_number(&self.memory, slot.service)
        cdef uint64_t generation = self.memory.services[service].generation
        if self.function is None or slot.service != self.function_service or slot.method != self.function_method \
                or generation != self.function_generation:
            self.function = None
            try:
                function = host.function_of(service, generation, slot.method)
            except IndexError as error:
                raise self.damage() from error
            if self.inline:             # closing the runner must release what it ran; a worker's process ends
                return function
            self.function_service, self.function_generation, self.function_method = slot.service, generation, slot.method
            self.function = function
        return self.function

    cdef object _run_items(self, host, function, list items, const char *numbers, Py_ssize_t count, uint32_t mode,
                           int64_t first):
        """Run a chunk of `map`; return (nanoseconds, values, failures). `mode`: MAP_*. `first`: number of its first call,
        -1: it has none.

        Its items are a list, or integers as the codec writes those of one; so may the values be `Int64List`. Failures are
        None, or the error of the item after the values; with MAP_ALL a dict of errors by position, where the value is None.
        """
        cdef int64_t start = ff_now_ns()
        cdef Py_ssize_t i
        cdef Int64List plain = Int64List()
        cdef list values = None
        cdef dict failures = {} if mode & MAP_ALL else None
        for i in range(count):
            try:
                if first >= 0:
                    self._begin_number(first + i)
                item = uniform_item(numbers + 8 * i, True) if items is None else <object> PyList_GET_ITEM(items, i)
                value = function(*item) if mode & MAP_STAR else function(item)
                if values is None:
                    if plain.add(value):
                        continue
                    values = plain.listed()
                values.append(value if is_plain_value(value) else host.resolve_awaitable(value))
            except BaseException as problem:
                if not self.is_mine():
                    host.end_of_fork(problem)
                if failures is None:
                    return ff_now_ns() - start, plain if values is None else values, host.dump_error(problem)
                values = plain.listed() if values is None else values
                values.append(None)
                failures[i] = host.dump_error(problem)
        return ff_now_ns() - start, plain if values is None else values, failures

    cdef int _write_items(self, host, uint32_t index, chunk) except -1:
        """Write the outcome of `_run_items`: if a value cannot be written, those before it, and its error."""
        cdef Py_ssize_t count
        try:
            self._write_value(index, chunk, True)
            return 0
        except Exception as problem:
            failed = problem
        nanoseconds, values, failures = chunk
        if type(values) is Int64List:
            values = (<Int64List> values).listed()
        if failures is not None:
            return self._write_outcomes(host, index, nanoseconds, values, failures)
        for count in range(len(values)):
            try:
                self.pickling.dump_value(self, values[count])
            except Exception as problem:
                failed = problem
                break
        else:
            count = len(values) - 1             # each by itself can be written: all together do not fit
        error = host.dump_error(failed)
        while True:
            try:
                self._write_value(index, (nanoseconds, values[:count], error), False)
                return 0
            except StoreFullError:
                if count == 0:
                    raise
                count //= 2

    cdef int _write_outcomes(self, host, uint32_t index, nanoseconds, list values, dict failures) except -1:
        """Write a chunk's outcomes: a value that cannot be written becomes a failure; of too many, those at the end do."""
        cdef Py_ssize_t i, count = len(values)
        for i in range(count):
            try:
                self.pickling.dump_value(self, values[i])
            except Exception as problem:
                values[i], failures[i] = None, host.dump_error(problem)
        while True:
            try:
                self._write_value(index, (nanoseconds, values, failures), False)
                return 0
            except StoreFullError as problem:
                if count == 0:
                    raise
                count //= 2
                error = host.dump_error(problem)
            for i in range(count, len(values)):
                if values[i] is not None:
                    values[i], failures[i] = None, error

    cdef list _dependency_values(self, Slot *slot):
        cdef Dependencies *dependencies = dependencies_of(&self.memory, slot)
        cdef DependencyEdge *edges = edges_of(dependencies)
        cdef uint32_t i
        return [self._dependency_value(slot_number(&self.memory, edges[i].dependency))
                for i in range(dependency_count(&self.memory, dependencies))]

    cdef object _dependency_value(self, uint32_t index):
        if self.passed_on is None or index != self.passed_slot:
            return self.value_of(index)
        value, self.passed_on = self.passed_on, None
        take_up(self, value)
        return value

    cdef bint help(self, Wait wait) except -1:
        """Run one task that the wait needs inside the waiting one, if it is queued for the pool.

        Never an unrelated one: it would delay the waiter. Nor a method of a class whose instance of this process is in the
        middle of another call. Where there is none such, the caller sleeps, and a worker is added beside it.
        """
        cdef int64_t index = -1, permit = -1
        if self.helps == MOST_HELPS or not wait.needs_all() or self._is_limited() or is_deep():
            return False
        outer = self.host.suspend()
        self.helps += 1
        try:
            try:
                index = wait.runnable()
                if index < 0 or not self._claim_here(<uint32_t> index, &permit):
                    index = self._claim_needed(wait.targets(), &permit)
                if index >= 0:
                    self._run(self.host, <uint32_t> index)
            finally:
                self.helps -= 1
                if permit >= 0:
                    permit_release(&self.memory, <uint32_t> permit, self.me)
                    wake_queue(&self.memory, <uint32_t> permit)
        finally:
            self.function = None
            self.host.resume(outer)
        return index >= 0

    cdef bint _is_limited(self) noexcept:
        """Return whether this process may be ended because of the task that it runs."""
        return self.memory.slots[self.memory.processes[self.me].current - 1].flags & CALL_LIMITED != 0

    cdef bint _claim_here(self, uint32_t index, int64_t *permit) except -1:
        """Claim one task that is queued for the pool, wherever in its queue; its entry there becomes stale.

        `permit` becomes the queue whose permit this process acquired for the task, to be released when it ends.
        """
        cdef Slot *slot = &self.memory.slots[index]
        cdef uint32_t home = home_of(&self.memory, slot.queue)
        cdef RunQueue *queue = &self.memory.queues[home]
        cdef uint64_t state = ff_load64(&slot.state)
        if status_of(state) != READY or slot.queue >= POOL_QUEUES or slot.flags & CALL_LIMITED:
            return False
        if not self.host.may_help(slot.service, self.memory.services[slot.service].generation):
            return False
        if queue.limit and not has_permit(&self.memory, home):
            if not permit_acquire(&self.memory, home):
                return False
            if not queue.sticky:
                permit[0] = home
        # S1: pairs with `_publish`
        if ff_cas64(&slot.state, state, with_status(state, RUNNING, self.me)):
            queue_trim(&self.memory, slot.queue)      # its entry is stale, and those of tasks claimed like this
            return True
        if permit[0] >= 0:
            permit_release(&self.memory, <uint32_t> permit[0], self.me)
            permit[0] = -1
        return False

    cdef int64_t _claim_needed(self, list targets, int64_t *permit) except -2:
        """Claim a queued task that the targets depend on, at any distance; return -1 if there is none."""
        seen = set()
        todo = targets
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            if self._claim_here(index, permit):
                return index
            todo.extend(unfinished_needs(&self.memory, index)[0])
        return -1
