# The client, in the driver or in a worker's task that submits: fill slots, queue them, wait for them and read them.
# uses: segment, fork, writer, encode, timeouts, waits, outcomes, notifier, future, selector, call_policy

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid
from .core.externs cimport (
    FF_DEBUG, FF_LAYOUT, MADV_REMOVE, ff_add32, ff_and32, ff_exchange64, ff_futex_wait, ff_load32, ff_load64,
    ff_lock_make, ff_now_ns, ff_or32, ff_store32, ff_store64, madvise,
)
from .core.layout cimport (
    CALL_KEPT, CGROUP_BYTES, CLOSING, DONE, DRIVER_INDEX, EMPTY, ENDING, FAILED, GROUP_BITS, INLINE_BYTES, KIND_HANDLES,
    KIND_NATIVE, KIND_NUMBERED, KIND_PICKLE, KIND_STATE, LEAVING, MAGIC, NO_DEPENDENCY, PAYLOAD, POOL_QUEUES,
    PROCESS_LIVE, QUEUE_DEAD, QUEUE_OPEN, READY, REF_EDGES, REF_PENDING, REF_RUN, RESULT, ROLE_DRIVER, ROLE_ZYGOTE,
    RUNNING, SERVICE_OPEN, SLOT_COUNT, SLOT_SPARE, WAITERS_CLOSED, WAITING, ZYGOTE_INDEX, Dependencies, DependencyEdge,
    Header, RunQueue, Slot,
)
from .core.bounds cimport at_most, queue_number
from .core.lookup cimport (
    data_of, dependencies_of, edges_of, is_finished, next_taken, processes_used, slots_used, status_of, value_bytes,
    with_status,
)
from .core.wakeup cimport ring_bell, wake_everybody, wake_queue, wake_waiters
from .core.extents cimport CHECK_STEP, extents_trim, used_bytes
from .core.blocks cimport block_alloc, block_alloc_owned, block_cancel, block_published
from .core.slots cimport release_refs, slot_alloc, slot_free, slot_prepare, value_free, value_store
from .core.run_queue cimport queue_push
from .core.dependencies cimport dependencies_bytes, dependency_ready, mark_all_missing, mark_ready, subscribe
from .core.policy cimport alarm_by
from .core.completion cimport cancel_unstarted, fail_unstarted, finish, is_wanted, runs_anyway, write_result

cdef int number_errors(ValueWriter writer, CallPolicy policy) except -1:
    """Make the types of the errors after which a call is tried again its last dependency."""
    if writer.dependencies is None:
        writer.dependencies = {}
    dependency_number(writer.dependencies, policy.errors)
    return 0

cdef class Client(Outcomes):
    """What a driver and a task use: submit calls, store values, wait for outcomes, and end a runner.

    Made by `create` (the driver's) or `attach`. Safe from any thread of its process. In a child that the user forks every
    call raises `INVALID_STATE`.
    """

    @classmethod
    def create(cls, str name, int doorbell, int workers, int cpus, uint64_t limit, cgroups=(), bint arrays_read_only=False):
        """Create a segment with this process as its driver.

        Parameters
        ----------
        name : str
            The runner's name, for error messages.
        doorbell : int
            An eventfd that the supervisor (zygote) polls.
        workers, cpus : int
            Pool workers wanted; CPUs available, which bounds how many processes may spin.
        limit : int
            Bytes of values allowed at the same time.
        cgroups : sequence of (str, str, str)
            Files with the memory limit, the memory used, and its composition, of each cgroup above this process.
        arrays_read_only : bool
            Arrays arrive with WRITEABLE cleared.
        """
        cdef Client client = cls.__new__(cls)
        import fcntl
        client.name = name
        fd = os.memfd_create("flame_fast", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            client._reserve(fd, limit)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            os.close(fd)
            raise
        client._fill_header(workers, cpus, limit, cgroups, arrays_read_only)
        client._enroll_first_processes()
        client.memory.header.layout = FF_LAYOUT
        client.memory.header.magic = MAGIC
        client.become(DRIVER_INDEX, name, doorbell)
        return client

    cdef int _fill_header(self, int workers, int cpus, uint64_t limit, cgroups, bint arrays_read_only) except -1:
        cdef Header *header = self.memory.header
        if ff_lock_make(header.lock):
            raise FlameError(FlameErrorCode.INTERNAL, "this system makes no robust mutex that processes share")
        header.cpus = cpus
        header.workers = workers
        header.size = self.mapped_bytes
        header.limit = limit
        header.arrays_read_only = arrays_read_only
        header.arena_next = self.arena - self.memory.base
        header.checked_bytes = CHECK_STEP           # the caller has just looked, to compute the limit
        header.cache_limit = limit // 2
        names = b""
        for files in cgroups:
            more = b"".join(os.fsencode(name) + b"\0" for name in files)
            if len(names) + len(more) < CGROUP_BYTES:       # else this cgroup alone bounds nothing
                names += more
        memcpy(header.cgroups, PyBytes_AS_STRING(names), len(names))
        header.session = int.from_bytes(os.urandom(8), "little")
        return 0

    cdef void _enroll_first_processes(self) noexcept:
        """Fill in the driver's entry and one for the supervisor to come; open the queue that every pool worker serves."""
        self.memory.header.process_high = 2
        self.memory.header.pool_queue_high = 1
        self.memory.header.instance_queue_high = POOL_QUEUES
        self.memory.queues[0].state = QUEUE_OPEN
        self.memory.processes[DRIVER_INDEX].state = PROCESS_LIVE
        self.memory.processes[DRIVER_INDEX].role = ROLE_DRIVER
        self.memory.processes[DRIVER_INDEX].pid = getpid()
        self.memory.processes[ZYGOTE_INDEX].state = PROCESS_LIVE
        self.memory.processes[ZYGOTE_INDEX].role = ROLE_ZYGOTE

    cdef ObjectFuture call(self, uint32_t service, uint64_t generation, uint32_t queue, uint32_t method, uint32_t flags,
                           PyObject *const *args, Py_ssize_t count, PyObject *names, tuple state, CallPolicy policy,
                           CallNumbers numbers, int64_t number):
        """Queue a call and return its future at once.

        `args`: `count` positional arguments, then the values of the keyword arguments in the tuple `names` (NULL: none).
        `flags`: KIND_MAP, or 0. `state`: the function's captured state, for `flame_fast.calls.captures.with_state`.
        `numbers`: of the service's calls; None: they have none. `number`: that of this call; -1: the next one.
        Raises TypeError (an argument that cannot be pickled, by name), StoreFullError, FlameError (`INVALID_STATE`: closed).
        """
        cdef ValueWriter writer
        cdef uint64_t block
        cdef uint32_t kind = KIND_NATIVE | flags
        cdef int64_t index, taken = -1
        cdef dict dependencies
        cdef ObjectFuture future
        self.check_service(service, generation)
        writer = self.borrow_writer()
        writer.takes_futures = True
        try:
            if numbers is not None:
                flags |= KIND_NUMBERED
                kind |= KIND_NUMBERED
                writer.reserve(8)
            if state is not None or self._encode_call(writer, args, count, names) != NATIVE_OK:
                kind = (KIND_PICKLE if state is None else KIND_PICKLE | KIND_STATE) | flags
                self._pickle_call(writer, state, args, count, names, flags)
            self.check()            # encoding may have run user code or other threads; the service: see _publish
            if numbers is not None:
                if number < 0:
                    number = taken = numbers.take(1)
                memcpy(writer.data, &number, 8)
            if policy is not None and policy.errors is not None:
                number_errors(writer, policy)
            block = self._filled_block(writer, 0 if policy is not None and policy.retries else INLINE_BYTES)
            index = self._new_slot(block)
            self._store_value(index, PAYLOAD, writer, block, kind)
            dependencies = writer.dependencies
            future = self._publish(<uint32_t> index, service, generation, queue, method, dependencies, policy)
            taken = -1
            return future
        finally:
            if taken >= 0:
                numbers.give_back(taken)
            self.return_writer(writer)

    cdef int _encode_call(self, ValueWriter writer, PyObject *const *args, Py_ssize_t count, PyObject *names) except -1:
        cdef Py_ssize_t i
        writer.put_count(b'(', count)
        for i in range(count):
            if encode_native(writer, <object> args[i], self, NATIVE_DEPTH, 0):
                return NATIVE_CANNOT
        if names == NULL or PyTuple_GET_SIZE(<object> names) == 0:
            return writer.put_tag(b'N')
        writer.put_count(b'{', PyTuple_GET_SIZE(<object> names))
        for i in range(PyTuple_GET_SIZE(<object> names)):
            if encode_native(writer, <object> PyTuple_GET_ITEM(<object> names, i), self, NATIVE_DEPTH, 0) or \
                    encode_native(writer, <object> args[count + i], self, NATIVE_DEPTH, 0):
                return NATIVE_CANNOT
        return NATIVE_OK

    cdef int _pickle_call(self, ValueWriter writer, tuple state, PyObject *const *args, Py_ssize_t count,
                          PyObject *names, uint32_t flags) except -1:
        cdef Py_ssize_t i
        cdef dict dependencies = {}
        writer.begin_again()
        if flags & KIND_NUMBERED:
            writer.reserve(8)
        positional = tuple([<object> args[i] for i in range(count)])
        keywords = {}
        if names != NULL:
            for i in range(PyTuple_GET_SIZE(<object> names)):
                keywords[<object> PyTuple_GET_ITEM(<object> names, i)] = <object> args[count + i]
        data, buffers, arrays, holds = self.pickling.dump_call(self, state, positional, keywords, dependencies)
        put_pickled(writer, self, data, buffers, arrays, holds)
        writer.dependencies = dependencies
        return 0

    cdef uint64_t _filled_block(self, ValueWriter writer, uint64_t inline_bytes=INLINE_BYTES) except? 0:
        """Return a block with the value; 0 for one of at most `inline_bytes`, which goes into its slot."""
        cdef uint64_t nbytes = writer.total(), block
        if nbytes <= inline_bytes:
            return 0
        if self.pins:
            release_fork_pins(self)
        block = block_alloc(&self.memory, nbytes)
        if block == 0:
            raise self.full(nbytes)
        writer.write_to(self.memory.base + block)
        self.count_copied(nbytes)
        return block

    cdef void _store_value(self, uint32_t index, uint32_t which, ValueWriter writer, uint64_t block, uint32_t kind) noexcept:
        """Store the value that `_filled_block` was made from in a slot."""
        if writer.handle_count:
            kind |= KIND_HANDLES
        if block == 0:
            writer.write_to(<char *> self.memory.slots[index].data)
        value_store(&self.memory, index, which, block, writer.total(), kind)

    cdef int check_service(self, uint32_t service, uint64_t generation) except -1:
        """Raise `INVALID_STATE` unless this service, and none that reuses its entry (ABA), is open."""
        self.check()
        if ff_load32(&self.memory.services[service].state) != SERVICE_OPEN or \
                self.memory.services[service].generation != generation:   # after the state, for a later service's OPEN (ABA)
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"this service of runner {self.name!r} is closed; make a new one with Runner.service")
        return 0

    cdef int64_t _new_slot(self, uint64_t block) except -1:
        """Allocate a slot; free `block` if there is none."""
        cdef int64_t index = slot_alloc(&self.memory)
        if index < 0:
            if block:
                block_cancel(&self.memory, block)
            entries = (SLOT_COUNT - SLOT_SPARE) // GROUP_BITS * GROUP_BITS
            raise StoreFullError(
                sizeof(Slot), 0, entries * sizeof(Slot), f"the table of {entries:,} unfinished calls and held values"
            )
        slot_prepare(&self.memory, index)
        return index

    cdef ObjectFuture _publish(self, uint32_t index, uint32_t service, uint64_t generation, uint32_t queue_index,
                               uint32_t method, dict dependencies, CallPolicy policy):
        """Publish a filled slot: queue it, and put its edges on the waiter lists of its dependencies.

        From here on it may run.
        """
        cdef Slot *slot = &self.memory.slots[index]
        cdef RunQueue *queue = &self.memory.queues[queue_index]
        cdef uint64_t free_state = slot.state, deadline = 0
        cdef uint32_t entered = queue_index
        cdef int pushed = 1
        cdef ObjectFuture future = ObjectFuture.__new__(ObjectFuture)
        if policy is not None and policy.urgent:
            entered = queue_number(&self.memory, queue.urgent)
        slot.service = service
        slot.queue = entered
        # S20: pairs with `is_here`
        slot.queue_tail = ff_load64(&self.memory.queues[entered].tail)
        slot.method = method
        try:
            # S17: pairs with `is_calling`: `building` has named the slot since before the cas on its bit.
            self.check_service(service, generation)
            if queue.ordered and ff_load32(&queue.process) == 0:
                self.start_instance(service)
            if dependencies:
                self._add_dependencies(slot, dependencies)
        except BaseException:
            slot_free(&self.memory, index)
            # Else a recovery frees the slot again, which another process may have allocated since.
            ff_store64(&self.memory.processes[self.me].building, 0)
            raise
        future.runtime = self
        future.index = index
        if policy is not None:
            deadline = policy.apply(&self.memory, index)
        if dependencies:
            ff_or32(&slot.refs, REF_EDGES)
        # S1: pairs with `queue_claim` and `_claim_here`
        ff_exchange64(&slot.state, with_status(free_state, WAITING if dependencies else READY, 0))
        # An ordered queue has a task from the start, another one once no dependency is missing. A DEAD queue has no reader.
        if ff_load32(&queue.state) != QUEUE_DEAD if queue.ordered else not dependencies:
            pushed = queue_push(&self.memory, entered, index)
            wake_queue(&self.memory, entered)
        ff_store64(&self.memory.processes[self.me].building, 0)
        if dependencies:
            self._subscribe_to_dependencies(index, dependencies)
        if deadline:
            alarm_by(&self.memory, deadline)
        if not pushed:
            self._fail_unstarted(
                index, self.pickling.dump_error(StoreFullError(8, 0, 8 * SLOT_COUNT, "the queue of its instance"))
            )
        if queue.ordered and ff_load32(&queue.state) == QUEUE_DEAD:     # S16: pairs with `_recover_queue`
            self._fail_as_its_queue(index, queue)
        return future

    cdef int _add_dependencies(self, Slot *slot, dict handles) except -1:
        """Build the block of edges and missing bits: one of each per dependency, and one bit for the submitter."""
        cdef uint32_t i
        cdef uint64_t nbytes, block
        cdef Dependencies head
        cdef Dependencies *dependencies
        cdef DependencyEdge *edges
        memset(&head, 0, sizeof(head))
        nbytes = dependencies_bytes(len(handles), &head)
        block = block_alloc_owned(&self.memory, nbytes)
        if block == 0:
            raise self.full(nbytes)
        dependencies = <Dependencies *> (self.memory.base + block)
        dependencies[0] = head
        mark_all_missing(&self.memory, dependencies)
        edges = edges_of(dependencies)
        for i in range(head.count):
            edges[i].dependency = NO_DEPENDENCY
        ff_store64(&slot.dependencies, block)
        block_published(&self.memory)
        for i, (_, handle) in enumerate(handles.values()):
            edges[i].task = <uint32_t> (slot - self.memory.slots)
            edges[i].bit = i
            ff_add32(&self.memory.slots[(<ObjectHandle> handle).index].refs, REF_PENDING + 1)
            ff_store32(&edges[i].dependency, (<ObjectHandle> handle).index)
            release_refs(&self.memory, (<ObjectHandle> handle).index, REF_PENDING)
        return 0

    cdef int _subscribe_to_dependencies(self, uint32_t index, dict handles) except -1:
        """Push the task's edges on the waiter lists; a dependency that has finished already counts at once.

        The futures name the dependencies, not the edges: a task that fails meanwhile releases its edges' references.
        """
        cdef Slot *slot = &self.memory.slots[index]
        cdef Dependencies *dependencies = dependencies_of(&self.memory, slot)
        cdef DependencyEdge *edges = edges_of(dependencies)
        cdef Slot *dependency
        cdef uint32_t i, count = len(handles)
        for i, (_, handle) in enumerate(handles.values()):
            dependency = &self.memory.slots[(<ObjectHandle> handle).index]
            if not subscribe(&self.memory, dependency, &edges[i]):
                if status_of(ff_load64(&dependency.state)) == FAILED:
                    fail_unstarted(&self.memory, index, data_of(&self.memory, dependency, RESULT),
                                   value_bytes(&self.memory, dependency, RESULT))
                mark_ready(&self.memory, dependencies, i)
        dependency_ready(&self.memory, index, count, NULL)
        return 0

    cdef int _fail_as_its_queue(self, uint32_t index, RunQueue *queue) except -1:
        """Fail a call of an instance that is lost."""
        cdef uint64_t error = queue.error, nbytes = queue.error_bytes
        if nbytes:
            self.check_range(error, nbytes)
        fail_unstarted(&self.memory, index, self.memory.base + error, nbytes)
        return 0

    cdef _fail_unstarted(self, uint32_t index, bytes error):
        fail_unstarted(&self.memory, index, PyBytes_AS_STRING(error), len(error))

    def put(self, value):
        """Store a value once; return its `ObjectRef`."""
        cdef int64_t index
        cdef ObjectRef ref
        cdef Slot *slot
        self.check()
        index = self._write_value(-1, value, False)
        slot = &self.memory.slots[index]
        slot.waiters = WAITERS_CLOSED
        ff_and32(&slot.refs, ~<uint32_t> REF_RUN)
        # S2: pairs with `is_finished`
        ff_exchange64(&slot.state, with_status(slot.state, DONE, self.me))
        ff_store64(&self.memory.processes[self.me].building, 0)
        ref = ObjectRef.__new__(ObjectRef)
        ref.runtime = self
        ref.index = <uint32_t> index
        return ref

    def promise(self):
        """Return a future that this process fulfils itself: for a value that comes from outside the segment."""
        cdef int64_t index
        cdef ObjectFuture future
        cdef Slot *slot
        self.check()
        index = self._new_slot(0)
        slot = &self.memory.slots[index]
        slot.started = 1
        ff_exchange64(&slot.state, with_status(slot.state, RUNNING, self.me))
        ff_store64(&self.memory.processes[self.me].building, 0)
        future = ObjectFuture.__new__(ObjectFuture)
        future.runtime = self
        future.index = <uint32_t> index
        return future

    def fulfil(self, ObjectFuture future, value, bytes error=None):
        """Finish a `promise`: with a value, or with an error as `pickling.dump_error` writes it."""
        if not self.is_mine():
            self.check()
        if error is None:
            self._write_value(future.index, value, False)
            finish(&self.memory, future.index, DONE, NULL)
        else:
            write_result(&self.memory, future.index, PyBytes_AS_STRING(error), len(error))
            finish(&self.memory, future.index, FAILED, NULL)

    cdef int64_t _write_value(self, int64_t index, value, bint owned, uint32_t flags=0) except -1:
        """Write an outcome into a slot that this process owns, or, for -1, into a new one; return which.

        `owned`: only the caller's caller references the value, so that its memory may be taken over. `flags`: KIND_CAPTURED.
        """
        cdef ValueWriter writer = self.borrow_writer()
        cdef uint64_t block
        cdef uint32_t kind = KIND_NATIVE
        writer.takes_futures = False
        try:
            if encode_native(writer, value, self, NATIVE_DEPTH, 1 if owned else 0) != NATIVE_OK:
                writer.begin_again()
                data, buffers, arrays, holds = self.pickling.dump_value(self, value)
                put_pickled(writer, self, data, buffers, arrays, holds)
                kind = KIND_PICKLE
            if not self.is_mine():      # encoding has run user code, which forked: the parent does what follows
                self.check()
            block = self._filled_block(writer)
            if index < 0:
                index = self._new_slot(block)
            self._store_value(index, RESULT, writer, block, kind | flags)
        finally:
            self.return_writer(writer)
        return index

    cdef list history(self, uint32_t index):
        """Return the texts of the failed attempts of a call that this process owns."""
        if not self.memory.slots[index].flags & CALL_KEPT or not self.memory.policies[index].history:
            return []
        return self.value_of(index).splitlines()

    cdef void forget_history(self, uint32_t index) noexcept:
        if self.memory.policies[index].history:
            self.memory.policies[index].history = 0
            value_free(&self.memory, index, RESULT)

    cdef int write_history(self, uint32_t index, list lines) except -1:
        """Keep the texts of the failed attempts, in the place of an outcome, of a call that this process owns."""
        self.memory.policies[index].history = 0
        value_free(&self.memory, index, RESULT)
        self._write_value(index, "\n".join(lines), False)
        self.memory.policies[index].history = 1
        return 0

    def get_many(self, list handles, timeout=None):
        """Return the values of handles of this client, in order; raise the first failure in this order."""
        return self._collect(handles, deadline_of(timeout), True)

    def wait_many(self, list handles, timeout=None):
        """Wait as `get_many` does, without reading the values."""
        self._collect(handles, deadline_of(timeout), False)

    cdef list _collect(self, list handles, int64_t deadline, bint read):
        cdef tuple held = tuple(handles)        # another thread may change the list during the wait
        cdef Py_ssize_t count = len(held), i = 0
        cdef list values = PyList_New(count) if read else None
        cdef AllWait wait = None
        cdef ObjectHandle handle
        for i in range(count):
            handle = <ObjectHandle> PyTuple_GET_ITEM(held, i)
            if not (self.is_mine() and is_finished(&self.memory, handle.index)):
                if wait is None:
                    wait = all_wait(&self.memory, held)
                wait.reach(i)
                self.wait_for(wait, deadline)
            if read:
                value = self.value_of(handle.index)
                Py_INCREF(value)
                PyList_SET_ITEM(values, i, value)
            elif status_of(self.memory.slots[handle.index].state) == FAILED:
                raise self.error_of(handle.index)
        self.show_printed()
        return values

    def cancel_many(self, list handles, bint force=False):
        """Cancel the calls of handles of this client; return how many of them have no outcome of their own."""
        cdef Py_ssize_t i
        cdef int count = 0
        left = []
        for i in range(len(handles)):
            cancelled = self.cancel((<ObjectHandle?> handles[i]).index, force)
            if force and not is_finished(&self.memory, (<ObjectHandle> handles[i]).index):
                left.append(handles[i])
            else:
                count += cancelled
        deadline = ff_now_ns() + FORCE_NS
        for handle in left:
            count += self.await_forced_end((<ObjectHandle> handle), deadline)
        return count

    def cancel_calls(self, uint32_t service, uint64_t generation):
        """Cancel the calls of a service that have not begun; return how many those were."""
        cdef uint32_t i
        cdef int count = 0
        if not self.is_mine() or self.closed or self.memory.services[service].generation != generation:
            return 0
        i = next_taken(&self.memory, 0)
        while i < slots_used(&self.memory):
            if self.memory.slots[i].service == service:
                count += cancel_unstarted(&self.memory, i)
            i = next_taken(&self.memory, i + 1)
        return count

    def selector(self, list handles):
        """Return a `Selector` of these handles, all of this client."""
        return new_selector(self, handles)

    def owns(self, obj):
        """Return whether an object is a future or ref of this client."""
        return isinstance(obj, ObjectHandle) and (<ObjectHandle> obj).runtime is self

    def owns_all(self, list objects):
        """Return whether each object is a future or ref of this client."""
        cdef Py_ssize_t i
        for i in range(len(objects)):
            if not isinstance(objects[i], ObjectHandle) or (<ObjectHandle> objects[i]).runtime is not self:
                return False
        return True

    def number_dependency(self, dict dependencies, ObjectHandle handle):
        """Return the dependency number of a future met inside an argument, for the pickler."""
        return dependency_number(dependencies, handle)

    def set_setup(self, bytes data):
        """Publish what `get_setup` returns in each process of the runner."""
        cdef uint64_t block
        data = with_checksum(data)
        block = self.store(data)
        self.memory.header.setup_bytes = len(data)
        ff_store64(&self.memory.header.setup, block)
        block_published(&self.memory)

    def statistics(self):
        """Return a dict of counts and bytes in use; see `flame_fast.calls.statistics`.

        A debug build adds how many blocks and slots were ever allocated and freed.
        """
        cdef Header *header = self.memory.header
        cdef uint32_t i, status
        cdef uint64_t used, copied_bytes = 0, shared_bytes = 0, definitions = 0, definition_bytes = 0
        release_fork_pins(self)
        by_status = [0] * (LEAVING + 1)
        i = next_taken(&self.memory, 0)
        while i < slots_used(&self.memory):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            by_status[at_most(&self.memory, status, LEAVING)] += 1
            i = next_taken(&self.memory, i + 1)
        for i in range(processes_used(&self.memory)):
            copied_bytes += self.memory.processes[i].copied_bytes
            shared_bytes += self.memory.processes[i].shared_bytes
            definitions += self.memory.processes[i].definitions
            definition_bytes += self.memory.processes[i].definition_bytes
        used = used_bytes(&self.memory)
        counted = {
            "waiting": by_status[WAITING], "queued": by_status[READY],
            "running": by_status[RUNNING] + by_status[ENDING],
            "done": by_status[DONE], "failed": by_status[FAILED], "slots": sum(by_status[WAITING:]),
            "bytes": used, "peak_bytes": max(header.peak_bytes, used), "limit_bytes": header.limit,
            "cached_bytes": header.cached_bytes, "copied_bytes": copied_bytes, "shared_bytes": shared_bytes,
            "definitions": definitions, "definition_bytes": definition_bytes,
        }
        if FF_DEBUG:
            counted.update(
                blocks_taken=header.blocks_taken, blocks_freed=header.blocks_freed,
                slots_taken=header.slots_taken, slots_freed=header.slots_freed,
            )
        return counted

    def announce_close(self):
        """Tell every process to leave; return how many calls are unfinished that somebody wants."""
        cdef uint32_t i, unfinished = 0, status
        i = next_taken(&self.memory, 0)
        while i < slots_used(&self.memory):
            status = status_of(ff_load64(&self.memory.slots[i].state))
            if WAITING <= status <= ENDING:
                unfinished += runs_anyway(&self.memory, &self.memory.slots[i]) or is_wanted(&self.memory, i)
            i = next_taken(&self.memory, i + 1)
        # S7: pairs with `sleep_begin` and `_shall_leave`
        ff_store32(&self.memory.header.closing, CLOSING)
        wake_everybody(&self.memory)
        ring_bell(self.doorbell)
        return 0 if self.memory.damaged else unfinished

    def await_workers_end(self, double timeout):
        """Return whether no worker is left; wait for that, at most so many seconds, once `announce_close` was called."""
        cdef int64_t nanoseconds = <int64_t> (timeout * 1e9)
        with nogil:
            # S25: pairs with `announce_end`
            ff_futex_wait(&self.memory.header.closing, CLOSING, nanoseconds)
        return ff_load32(&self.memory.header.closing) == EMPTY

    def mark_broken(self, str reason):
        """Make unfinished futures, and every later call, raise `FlameError(INTERNAL, reason)`: nothing runs any more."""
        self.broken = reason
        wake_waiters(&self.memory, self.me)

    def mark_damaged(self):
        """Make unfinished futures, and every later call, raise the error of a segment that was overwritten."""
        self.memory.damaged = 1
        wake_waiters(&self.memory, self.me)

    def mark_closed(self, str ending="was closed"):
        """Make unfinished futures of this process raise from here on; threads that wait for one wake up to do so.

        `ending` says what happened to the runner, after its name.
        """
        self.ending = ending
        self.closed = True
        wake_waiters(&self.memory, self.me)

    def end_callbacks(self):
        """Run the callbacks of calls that can never finish, once `mark_closed` was called."""
        notifier, self.notifier = self.notifier, None
        if notifier is not None:
            (<Notifier> notifier).finish()

    def trim_memory(self):
        """Return memory without values to the system, and cache none any more: once every other process has ended."""
        cdef char *rings = <char *> self.memory.rings
        release_fork_pins(self, forget=True)
        self.memory.doorbell = -1           # the system may give its number to another file soon
        self.memory.header.cache_limit = 0
        with nogil:
            extents_trim(&self.memory)
            madvise(rings, <size_t> (self.arena - rings), MADV_REMOVE)
