# Calls and values on the driver's side, or a worker's that submits: slots are filled, queued, waited for and read.

cdef object out_of_time():
    return TimeoutError("the calls waited for have not finished in time; they go on")


cdef object endless_wait():
    return FlameError(
        FlameErrorCode.INVALID_STATE,
        "this wait can never end: the call waited for needs the one that waits (a method that waits for a call of its own "
        "instance, or a ring of such); wait outside of the instance's methods, or ask another instance",
    )


cdef struct Known:              # a class or a member of an enum that the value being read names
    const char *place           # where
    PyObject *named             # this process's own, with a reference


cdef class Calls(ServiceTable):
    """Submitting calls, storing values, waiting for outcomes: see `Runtime`."""
    cdef Known known[PARTS_NOTED]       # by `part_place` of the address
    cdef int known_count
    cdef unsigned long known_by         # the thread that reads

    cdef ObjectFuture call(self, uint32_t service, uint64_t generation, uint32_t lane, uint32_t method, uint32_t flags,
                           PyObject *const *args, Py_ssize_t count, PyObject *names, tuple state):
        """Queues a call and returns its future at once.

        `args`: `count` positional arguments, then the values of the keyword arguments that the tuple `names` names (NULL: none).
        `flags`: KIND_MAP, or 0. `state`: what the function has of its own at this call, for `flame_fast.calls.captures.with_state`.
        Raises TypeError (an argument that cannot be pickled, naming it), StoreFullError, FlameError (`INVALID_STATE`: closed).
        """
        cdef Scratch scratch
        cdef uint64_t block
        cdef uint32_t kind = KIND_NATIVE | flags
        cdef int64_t index
        cdef dict inputs
        self.check_service(service, generation)
        scratch = self.take_scratch()
        scratch.takes_futures = True
        try:
            if state is not None or self._encode_call(scratch, args, count, names) != NATIVE_OK:
                kind = (KIND_PICKLE if state is None else KIND_PICKLE | KIND_STATE) | flags
                self._pickle_call(scratch, state, args, count, names)
            self.check()            # encoding may have run the user's code, or let other threads run; the service: see _publish
            block = self._filled_block(scratch)
            index = self._new_slot(block)
            self._settle(index, PAYLOAD, scratch, block, kind)
            inputs = scratch.inputs
            return self._publish(<uint32_t> index, service, generation, lane, method, inputs)
        finally:
            self.give_scratch(scratch)

    cdef int _encode_call(self, Scratch scratch, PyObject *const *args, Py_ssize_t count, PyObject *names) except -1:
        cdef Py_ssize_t i
        scratch.put_count(b'(', count)
        for i in range(count):
            if encode_native(scratch, <object> args[i], self, NATIVE_DEPTH, 0):
                return NATIVE_CANNOT
        if names == NULL or PyTuple_GET_SIZE(<object> names) == 0:
            return scratch.put_tag(b'N')
        scratch.put_count(b'{', PyTuple_GET_SIZE(<object> names))
        for i in range(PyTuple_GET_SIZE(<object> names)):
            if encode_native(scratch, <object> PyTuple_GET_ITEM(<object> names, i), self, NATIVE_DEPTH, 0) or \
                    encode_native(scratch, <object> args[count + i], self, NATIVE_DEPTH, 0):
                return NATIVE_CANNOT
        return NATIVE_OK

    cdef int _pickle_call(self, Scratch scratch, tuple state, PyObject *const *args, Py_ssize_t count, PyObject *names) except -1:
        cdef Py_ssize_t i
        cdef dict inputs = {}
        scratch.begin_again()
        positional = tuple([<object> args[i] for i in range(count)])
        keywords = {}
        if names != NULL:
            for i in range(PyTuple_GET_SIZE(<object> names)):
                keywords[<object> PyTuple_GET_ITEM(<object> names, i)] = <object> args[count + i]
        data, buffers, arrays, holds = self.pickling.dump_call(self, state, positional, keywords, inputs)
        put_pickled(scratch, self, data, buffers, arrays, holds)
        scratch.inputs = inputs
        return 0

    cdef uint64_t _filled_block(self, Scratch scratch) except? 0:
        """A block with the value; 0 for one that fits into its slot."""
        cdef uint64_t nbytes = scratch.total(), block
        if nbytes <= INLINE_BYTES:
            return 0
        if self.pins:
            settle_pins(self)
        block = block_take(&self.memory, nbytes)
        if block == 0:
            raise self.full(nbytes)
        scratch.write_to(self.memory.base + block)
        self.count_copied(nbytes)
        return block

    cdef void _settle(self, uint32_t index, uint32_t which, Scratch scratch, uint64_t block, uint32_t kind) noexcept:
        """Puts what `_filled_block` was made from into a slot."""
        if scratch.handle_count:
            kind |= KIND_HANDLES
        if block == 0:
            scratch.write_to(<char *> self.memory.slots[index].data)
        slot_store(&self.memory, index, which, block, scratch.total(), kind)

    cdef int check_service(self, uint32_t service, uint64_t generation) except -1:
        self.check()
        if ff_load32(&self.memory.services[service].state) != SERVICE_OPEN or \
                self.memory.services[service].generation != generation:     # after: a later service's OPEN is not taken for its own
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"this service of runner {self.name!r} is closed; make a new one with Runner.service")
        return 0

    cdef int64_t _new_slot(self, uint64_t block) except -1:
        """A slot; gives `block` back if there is none."""
        cdef int64_t index = slot_take(&self.memory)
        if index < 0:
            if block:
                block_discard(&self.memory, block)
            entries = (SLOT_COUNT - SLOT_SPARE) // GROUP_BITS * GROUP_BITS
            raise StoreFullError(sizeof(Slot), 0, entries * sizeof(Slot), f"the table of {entries:,} unfinished calls and held values")
        slot_prepare(&self.memory, index)
        return index

    cdef ObjectFuture _publish(self, uint32_t index, uint32_t service, uint64_t generation, uint32_t lane_index, uint32_t method,
                               dict inputs):
        """Puts a filled slot on its lane; with inputs, on their waiter lists first. From here on it may run."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Lane *lane = &self.memory.lanes[lane_index]
        cdef uint64_t free_state = slot.state
        cdef int pushed = 1
        cdef ObjectFuture future = ObjectFuture.__new__(ObjectFuture)
        slot.service = service
        slot.lane = lane_index
        slot.lane_tail = ff_load64(&lane.tail)
        slot.method = method
        try:
            self.check_service(service, generation)     # pairs with is_calling: `building` names the slot since before its bit's cas
            if lane.ordered and ff_load32(&lane.process) == 0:
                self.start_instance(service)
            if inputs:
                self._add_inputs(slot, inputs)
        except BaseException:
            slot_return(&self.memory, index)
            ff_store64(&self.memory.processes[self.me].building, 0)     # else a burial gives it back again, whoever has it then
            raise
        future.runtime = self
        future.index = index
        if inputs:
            ff_or32(&slot.holds, HOLD_EDGES)
        ff_exchange64(&slot.state, with_status(free_state, WAITING if inputs else READY, 0))
        # In an ordered lane a task stands from the start; in another once nothing is missing. A dead one has no reader.
        if ff_load32(&lane.state) != LANE_DEAD if lane.ordered else not inputs:
            pushed = lane_push(&self.memory, lane_index, index)
            wake_lane(&self.memory, lane_index)
        ff_store64(&self.memory.processes[self.me].building, 0)
        if inputs:
            self._stand_on_inputs(index, inputs)
        if not pushed:
            self._fail_unstarted(index, self.pickling.dump_error(StoreFullError(8, 0, 8 * SLOT_COUNT, "the queue of its instance")))
        if lane.ordered and ff_load32(&lane.state) == LANE_DEAD:    # pairs with _bury_lane, which marks it and then looks
            fail_unstarted(&self.memory, index, self.memory.base + lane.error, lane.error_bytes)
        return future

    cdef int _add_inputs(self, Slot *slot, dict handles) except -1:
        """The block of edges and missing bits, one input each and one bit for the submitter."""
        cdef uint32_t i
        cdef uint64_t nbytes, block
        cdef Inputs head
        cdef Inputs *inputs
        cdef Edge *edges
        memset(&head, 0, sizeof(head))
        nbytes = inputs_bytes(len(handles), &head)
        block = block_keep(&self.memory, nbytes)
        if block == 0:
            raise self.full(nbytes)
        inputs = <Inputs *> (self.memory.base + block)
        inputs[0] = head
        inputs_fill(inputs)
        edges = edges_of(inputs)
        for i in range(head.count):
            edges[i].input = NO_INPUT
        ff_store64(&slot.inputs, block)
        block_settled(&self.memory)
        for i, (_, handle) in enumerate(handles.values()):
            edges[i].task = <uint32_t> (slot - self.memory.slots)
            edges[i].bit = i
            ff_add32(&self.memory.slots[(<Handle> handle).index].holds, HOLD_PENDING + 1)
            ff_store32(&edges[i].input, (<Handle> handle).index)
            release_bits(&self.memory, (<Handle> handle).index, HOLD_PENDING)
        return 0

    cdef int _stand_on_inputs(self, uint32_t index, dict handles) except -1:
        """Pushes the task's edges; an input that has finished already counts at once.

        By the futures, not by the edges' own numbers: a task that fails on the way gives those back.
        """
        cdef Slot *slot = &self.memory.slots[index]
        cdef Inputs *inputs = <Inputs *> (self.memory.base + slot.inputs)
        cdef Edge *edges = edges_of(inputs)
        cdef Slot *input
        cdef uint32_t i, count = inputs.count
        for i, (_, handle) in enumerate(handles.values()):
            input = &self.memory.slots[(<Handle> handle).index]
            if not stand_on(&self.memory, input, &edges[i]):
                if status_of(ff_load64(&input.state)) == FAILED:
                    fail_unstarted(&self.memory, index, data_of(&self.memory, input, RESULT), input.result_bytes)
                inputs_clear(&self.memory, inputs, i)
        input_arrived(&self.memory, index, count, NULL)
        return 0

    cdef _fail_unstarted(self, uint32_t index, bytes error):
        fail_unstarted(&self.memory, index, PyBytes_AS_STRING(error), len(error))

    def put(self, value):
        """Stores a value once; returns its `ObjectRef`."""
        cdef int64_t index
        cdef ObjectRef ref
        cdef Slot *slot
        self.check()
        index = self._write_value(-1, value, False)
        slot = &self.memory.slots[index]
        slot.waiters = WAITERS_CLOSED
        ff_and32(&slot.holds, ~<uint32_t> HOLD_RUN)
        ff_exchange64(&slot.state, with_status(slot.state, DONE, self.me))
        ff_store64(&self.memory.processes[self.me].building, 0)
        ref = ObjectRef.__new__(ObjectRef)
        ref.runtime = self
        ref.index = <uint32_t> index
        return ref

    def promise(self):
        """A future that this process fulfils itself: for a value that comes from outside the segment."""
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
        """Finishes a `promise`: with a value, or with an error as `pickling.dump_error` writes it."""
        if not self.is_mine():
            self.check()
        if error is None:
            self._write_value(future.index, value, False)
            finish(&self.memory, future.index, DONE, NULL)
        else:
            write_result(&self.memory, future.index, PyBytes_AS_STRING(error), len(error))
            finish(&self.memory, future.index, FAILED, NULL)

    cdef int64_t _write_value(self, int64_t index, value, bint owned) except -1:
        """Writes an outcome into a slot that this process owns, or, for -1, into a new one; returns which. `owned`: nobody but
        the caller's caller refers to the value."""
        cdef Scratch scratch = self.take_scratch()
        cdef uint64_t block
        cdef uint32_t kind = KIND_NATIVE
        scratch.takes_futures = False
        try:
            if encode_native(scratch, value, self, NATIVE_DEPTH, 1 if owned else 0) != NATIVE_OK:
                scratch.begin_again()
                data, buffers, arrays, holds = self.pickling.dump_value(self, value)
                put_pickled(scratch, self, data, buffers, arrays, holds)
                kind = KIND_PICKLE
            if not self.is_mine():      # encoding has run the user's code, which forked: what follows is the parent's to do
                self.check()
            block = self._filled_block(scratch)
            if index < 0:
                index = self._new_slot(block)
            self._settle(index, RESULT, scratch, block, kind)
        finally:
            self.give_scratch(scratch)
        return index

    # ---- outcomes ----------------------------------------------------------------------------------------------------

    cdef object value_of(self, uint32_t index):
        """The value of a finished slot that the caller holds, or its error raised."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef const char *at
        if status_of(slot.state) == FAILED:
            raise self.error_of(index)
        at = body_of(&self.memory, slot, RESULT)
        if slot.result_kind & KIND_NATIVE:
            return self.read(&at, None)
        try:
            return self.read(&at, None)
        except Exception as error:
            raise self.pickling.unreadable(error) from error

    cdef object read(self, const char **at, list values):
        """A value at an address, or a call's arguments. What it named is not kept beyond."""
        try:
            return decode_native(at, self, values)
        finally:
            if self.known_count:
                self.forget_known()

    cdef object known_at(self, const char *place):
        """What the value being read names there; None: not known any more."""
        cdef Known *known = &self.known[part_place(place)]
        if known.place != place or self.known_by != PyThread_get_thread_ident():
            return None
        return None if known.named == NULL else <object> known.named

    cdef int note_known(self, const char *place, named) except -1:
        cdef Known *known = &self.known[part_place(place)]
        if self.known_by != PyThread_get_thread_ident():
            self.forget_known()
            self.known_by = PyThread_get_thread_ident()
        known.place = place
        replace(&known.named, <PyObject *> named)
        self.known_count += 1
        return 0

    cdef void forget_known(self) noexcept:
        cdef int i
        self.known_count = 0
        for i in range(PARTS_NOTED):
            self.known[i].place = NULL
            replace(&self.known[i].named, NULL)

    cdef object error_of(self, uint32_t index):
        cdef Slot *slot = &self.memory.slots[index]
        cdef const char *at = data_of(&self.memory, slot, RESULT)
        if slot.result_bytes == 0:
            return self.full(0)
        return self.pickling.load_error(*decode_native(&at, self, None))

    cdef int check_waitable(self) except -1:
        """Raises when nothing unfinished will ever finish here."""
        if self.closed and self.is_mine():
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"this call had not finished when its runner {self.name!r} {self.ending}; it was dropped")
        return self.check()

    cdef int wait_one(self, Handle handle, int64_t deadline) except -1:
        """Returns once the slot is finished; TimeoutError, INVALID_STATE or KeyboardInterrupt otherwise."""
        cdef OneWait wait
        if self.is_mine() and is_finished(&self.memory, handle.index):
            return 0
        wait = OneWait.__new__(OneWait)
        wait.memory = &self.memory
        wait.index = handle.index
        return self.wait_for(wait, deadline)

    def get_many(self, list handles, timeout=None):
        """The values of handles of this runtime, in order; the first failure in this order is raised."""
        return self._collect(handles, deadline_of(timeout), True)

    def wait_many(self, list handles, timeout=None):
        """As `get_many`, without the values."""
        self._collect(handles, deadline_of(timeout), False)

    cdef list _collect(self, list handles, int64_t deadline, bint read):
        cdef tuple held = tuple(handles)        # the user's list may change while this one waits
        cdef Py_ssize_t count = len(held), i = 0
        cdef list values = PyList_New(count) if read else None
        cdef AllWait wait = None
        cdef Handle handle
        for i in range(count):
            handle = <Handle> PyTuple_GET_ITEM(held, i)
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
        return values

    def selector(self, list handles):
        """A `Selector` of these handles, all of this runtime."""
        return new_selector(self, handles)

    cdef int wait_for(self, Wait wait, int64_t deadline) except -1:
        """Returns once the wait is over: spins, then sleeps. In a task it runs meanwhile what it waits for, or asks for a worker."""
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
        cdef bint needs_help = current != 0 and process.role == ROLE_POOL, blocked = False
        cdef int64_t left, slice_ns = PATIENCE_NS if needs_help else SLICE_NS
        cdef uint32_t seen
        try:
            while True:
                seen = ff_load32(&process.wake)
                if wait.ready():
                    return 0
                self.check_waitable()
                if in_task and deadline < 0:
                    if wait.tell(self, current - 1) and self._never_ends(current - 1, wait.waited()):
                        raise endless_wait()
                    if needs_help and self._help_unblocked(wait, blocked):
                        continue
                left = slice_ns
                if deadline >= 0:
                    left = min(left, deadline - ff_now_ns())
                    if left <= 0:
                        raise out_of_time()
                with nogil:
                    if sleep_for_futures(&self.memory, self.me, seen, left):
                        call_for_queued(&self.memory)       # the seeker may have been stopped
                PyErr_CheckSignals()
                wait.look_again()
                if needs_help and not blocked and not wait.ready():
                    blocked = True
                    slice_ns = SLICE_NS
                    self.set_blocked(True)
        finally:
            if in_task:
                wait.untell(self, current - 1)
            if blocked:
                self.set_blocked(False)

    cdef bint _help_unblocked(self, Wait wait, bint blocked) except -1:
        """While it runs something, this process is not blocked: nobody may take over its seat."""
        if blocked:
            ff_exchange32(&self.memory.processes[self.me].blocked, 0)
        try:
            return self.help(wait)
        finally:
            if blocked:
                ff_exchange32(&self.memory.processes[self.me].blocked, 1)

    cdef bint help(self, Wait wait) except -1:
        """Runs something that the wait needs, in this very process; 0 when there is nothing of the kind. See `Serving`."""
        return False

    cdef bint _never_ends(self, uint32_t current, list waited) except -1:
        """Looked at twice: the first look may have met a task in the middle of a change."""
        return never_ends(&self.memory, current, waited) and never_ends(&self.memory, current, waited)

    cdef set_blocked(self, bint blocked):
        """Tells the zygote that this process's task waits for others, in whichever thread: the pool has a worker too few."""
        cdef bint before = self.blocked_threads > 0
        self.blocked_threads += 1 if blocked else -1
        if (self.blocked_threads > 0) == before:
            return
        ff_exchange32(&self.memory.processes[self.me].blocked, blocked)
        if blocked:
            wake_sleepers(&self.memory.header.pool_wake, PROCESS_COUNT)
        ring_bell(self.doorbell)

    def owns(self, obj):
        """Whether something is a future or ref of this runtime."""
        return isinstance(obj, Handle) and (<Handle> obj).runtime is self

    def owns_all(self, list objects):
        """Whether each of them is a future or ref of this runtime."""
        cdef Py_ssize_t i
        for i in range(len(objects)):
            if not isinstance(objects[i], Handle) or (<Handle> objects[i]).runtime is not self:
                return False
        return True

    def number_input(self, dict inputs, Handle handle):
        """For the pickler: the input number of a future met inside an argument."""
        return input_number(inputs, handle)

    def takes_array(self, array):
        """For the pickler: whether an ndarray's dtype is one that is written natively."""
        return is_array(array) and is_numeric(<PyArrayObject *> array)
