# Calls and values on the driver's side, or a worker's that submits: slots are filled, queued, waited for and read.

cdef object endless_wait():
    return FlameError(
        FlameErrorCode.INVALID_STATE,
        "this wait can never end: the call waited for needs the one that waits (a method that waits for a call of its own "
        "instance, or a ring of such); wait outside of the instance's methods, or ask another instance",
    )


cdef class Calls(ServiceTable):
    """Submitting calls, storing values, waiting for outcomes: see `Runtime`."""

    cdef uint32_t input_number(self, dict inputs, Handle handle) except? 0xFFFFFFFF:
        """Which input of the task a future is: the same one twice is one input. `inputs`: slot -> (number, future)."""
        known = inputs.get(handle.index)
        if known is not None:
            return known[0]
        inputs[handle.index] = (len(inputs), handle)
        return len(inputs) - 1

    def submit(self, uint32_t service, uint32_t generation, uint32_t lane, uint32_t method, tuple args, dict kwargs,
               tuple state=None):
        """Queues a call and returns its future at once.

        Parameters
        ----------
        service, generation, lane : int
            As `add_service` returned them.
        method : int
            Number of the service's method.
        args, kwargs : tuple, dict
            The arguments; futures in them, at any depth, become inputs of the task.
        state : tuple, optional
            What the function has of its own at this call, for `flame_fast.closures.with_state`.

        Raises
        ------
        TypeError
            An argument that cannot be pickled, naming it.
        StoreFullError
            No room for the arguments.
        FlameError
            `INVALID_STATE`: closed.
        """
        cdef Scratch scratch
        cdef dict inputs = {}
        cdef int64_t index
        self.check_service(service, generation)
        scratch = self.scratch if self.scratch is not None else Scratch()
        self.scratch = None             # an object's destructor may submit while this one encodes
        scratch.clear()
        try:
            if state is None and encode_native(scratch, args, inputs, self, NATIVE_DEPTH) == NATIVE_OK \
                    and self._encode_kwargs(scratch, kwargs, inputs) == NATIVE_OK:
                index = self._new_call(scratch.data, scratch.size)
            else:
                inputs = {}
                data, buffers = self.pickling.dump_call(self, state, args, kwargs, inputs)
                self.check_service(service, generation)         # pickling ran the user's code
                index = self._new_pickled(data, buffers)
                self.memory.slots[index].payload_kind = KIND_PICKLE | (0 if state is None else KIND_STATE)
        finally:
            self.scratch = scratch if scratch.room <= SCRATCH_KEPT else None
        return self._publish(<uint32_t> index, service, generation, lane, method, inputs)

    cdef int check_service(self, uint32_t service, uint32_t generation) except -1:
        self.check()
        if self.memory.services[service].generation != generation or \
                ff_load32(&self.memory.services[service].state) != SERVICE_OPEN:
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"this service of runner {self.name!r} is closed; make a new one with Runner.service")
        return 0

    cdef int _encode_kwargs(self, Scratch scratch, dict kwargs, dict inputs) except -1:
        if not kwargs:
            return scratch.put_tag(b'N')
        scratch.put_count(b'(', 2 * len(kwargs))
        for key, value in kwargs.items():
            if encode_native(scratch, key, inputs, self, NATIVE_DEPTH) or \
                    encode_native(scratch, value, inputs, self, NATIVE_DEPTH):
                return NATIVE_CANNOT
        return NATIVE_OK

    cdef int64_t _new_slot(self) except -1:
        cdef int64_t index = slot_take(&self.memory)
        if index < 0:
            entries = SLOT_COUNT - SLOT_SPARE
            raise StoreFullError(sizeof(Slot), 0, entries * sizeof(Slot), f"the table of {entries:,} unfinished calls and held values")
        slot_prepare(&self.memory.slots[index], self.me)
        return index

    cdef int64_t _new_call(self, const char *data, uint64_t nbytes) except -1:
        """A slot with natively encoded arguments."""
        cdef uint64_t block = 0
        cdef int64_t index
        cdef Slot *slot
        if nbytes > INLINE_BYTES:
            block = self.store(data, nbytes)
        try:
            index = self._new_slot()
        except BaseException:
            if block:
                arena_free(self.memory.base, block)
            raise
        slot = &self.memory.slots[index]
        if not block:
            memcpy(slot.data, data, nbytes)
        slot.payload = block
        slot.payload_bytes = nbytes
        slot.payload_kind = KIND_NATIVE
        return index

    cdef int64_t _new_pickled(self, bytes data, list buffers) except -1:
        cdef uint64_t nbytes = pickled_size(data, buffers)
        cdef uint64_t block = arena_take(self.memory.base, nbytes)
        cdef int64_t index
        if block == 0:
            raise self.full(nbytes)
        try:
            write_pickled(self.memory.base + block, data, buffers)
            index = self._new_slot()
        except BaseException:
            arena_free(self.memory.base, block)
            raise
        self.memory.slots[index].payload = block
        self.memory.slots[index].payload_bytes = nbytes
        self.memory.slots[index].payload_kind = KIND_PICKLE
        return index

    cdef ObjectFuture _publish(self, uint32_t index, uint32_t service, uint32_t generation, uint32_t lane_index, uint32_t method,
                               dict inputs):
        """Puts a filled slot on its lane; with inputs, on their waiter lists first. From here on it may run."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Lane *lane = &self.memory.lanes[lane_index]
        cdef uint64_t free_state = slot.state
        cdef ObjectFuture future = ObjectFuture.__new__(ObjectFuture)
        slot.service = service
        slot.lane = lane_index
        slot.method = method
        try:
            self.check_service(service, generation)     # copying the arguments released the GIL
            if lane.ordered and ff_load32(&lane.process) == 0:
                self.start_instance(service)
            if inputs:
                self._add_inputs(slot, inputs)
        except BaseException:
            slot_return(&self.memory, index)
            raise
        future.runtime = self
        future.index = index
        if inputs:
            ff_or32(&slot.holds, HOLD_EDGES)
        ff_exchange64(&slot.state, with_status(free_state, WAITING if inputs else READY, 0))
        # In an ordered lane a task stands from the start; in another once nothing is missing. A dead one has no reader.
        if ff_load32(&lane.state) != LANE_DEAD if lane.ordered else not inputs:
            lane_push(&self.memory, lane_index, index)
            wake_lane(&self.memory, lane_index)
        if inputs:
            self._stand_on_inputs(index)
        if lane.ordered and ff_load32(&lane.state) == LANE_DEAD:    # pairs with _bury_lane, which marks it and then looks
            self._fail_with_bytes(index, self.memory.base + lane.error, lane.error_bytes, KIND_NATIVE)
        elif self.memory.services[service].generation != generation:    # another process closed it meanwhile
            self._fail_unstarted(index, self.pickling.dump_error(FlameError(FlameErrorCode.INVALID_STATE, "the service is closed")))
        return future

    cdef int _add_inputs(self, Slot *slot, dict handles) except -1:
        """The block of edges and missing bits, one input each and one bit for the submitter."""
        cdef uint32_t count = len(handles), words = (count >> 6) + 1, levels = 0, i, bits
        cdef uint64_t nbytes = sizeof(Inputs) + count * sizeof(Edge)
        cdef uint64_t level_at[4]
        cdef Inputs *inputs
        cdef Edge *edges
        cdef uint64_t *level
        bits = count + 1
        while True:
            words = (bits + 63) >> 6
            level_at[levels] = nbytes
            nbytes += 8 * words
            levels += 1
            if words == 1:
                break
            bits = words
        slot.inputs = arena_take(self.memory.base, nbytes)
        if slot.inputs == 0:
            raise self.full(nbytes)
        inputs = <Inputs *> (self.memory.base + slot.inputs)
        inputs.count = count
        inputs.levels = levels
        memcpy(inputs.level_at, level_at, sizeof(level_at))
        bits = count + 1
        for i in range(levels):
            words = (bits + 63) >> 6
            level = inputs_level(inputs, i)
            memset(level, 0xFF, 8 * words)
            if bits & 63:
                level[words - 1] = (<uint64_t> 1 << (bits & 63)) - 1
            bits = words
        edges = <Edge *> (<char *> inputs + sizeof(Inputs))
        for i, (_, handle) in enumerate(handles.values()):
            edges[i].input = (<Handle> handle).index
            edges[i].task = <uint32_t> (slot - self.memory.slots)
            edges[i].bit = i
            edges[i].next = 0
        for i in range(count):
            ff_add32(&self.memory.slots[edges[i].input].holds, 1)
        return 0

    cdef void _stand_on_inputs(self, uint32_t index) noexcept:
        """Pushes the task's edges; an input that has finished already counts at once."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef Inputs *inputs = <Inputs *> (self.memory.base + slot.inputs)
        cdef Edge *edges = <Edge *> (<char *> inputs + sizeof(Inputs))
        cdef Slot *input
        cdef uint64_t head, edge_at
        cdef uint32_t i, count = inputs.count
        for i in range(count):
            input = &self.memory.slots[edges[i].input]
            edge_at = <uint64_t> (<char *> &edges[i] - self.memory.base)
            while True:
                head = ff_load64(&input.waiters)
                if head == WAITERS_CLOSED:
                    if status_of(ff_load64(&input.state)) == FAILED:
                        self._fail_from(index, input)
                    inputs_clear(inputs, i)
                    break
                edges[i].next = head
                if ff_cas64(&input.waiters, head, edge_at):
                    break
        if inputs_clear(inputs, count):
            promote(&self.memory, self.me, index)
            release_bits(&self.memory, index, HOLD_EDGES)

    cdef void _fail_from(self, uint32_t index, Slot *cause) noexcept:
        self._fail_with_bytes(index, result_of(&self.memory, cause), cause.result_bytes, cause.result_kind)

    cdef _fail_unstarted(self, uint32_t index, bytes error):
        self._fail_with_bytes(index, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)

    cdef void _fail_with_bytes(self, uint32_t index, const char *data, uint64_t nbytes, uint32_t kind) noexcept:
        """Finishes a task that nobody has started; one that somebody claims meanwhile goes on."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef uint64_t state = ff_load64(&slot.state)
        while status_of(state) == WAITING or status_of(state) == READY:
            if ff_cas64(&slot.state, state, with_status(state, RUNNING, self.me)):
                write_result(&self.memory, slot, data, nbytes, kind)
                finish(&self.memory, self.me, index, FAILED)
                return
            state = ff_load64(&slot.state)

    def put(self, value):
        """Stores a value once; returns its `ObjectRef`."""
        cdef int64_t index
        cdef ObjectRef ref
        cdef Slot *slot
        self.check()
        index = self._new_slot()
        slot = &self.memory.slots[index]
        slot.lane = 0
        try:
            self._write_value(slot, value)
        except BaseException:
            slot_return(&self.memory, <uint32_t> index)
            raise
        slot.waiters = WAITERS_CLOSED
        ff_and32(&slot.holds, ~<uint32_t> HOLD_RUN)
        ff_exchange64(&slot.state, with_status(slot.state, DONE, self.me))
        ref = ObjectRef.__new__(ObjectRef)
        ref.runtime = self
        ref.index = <uint32_t> index
        return ref

    def promise(self):
        """A future that this process fulfils itself: for a value that comes from outside the segment."""
        cdef int64_t index
        cdef ObjectFuture future
        self.check()
        index = self._new_slot()
        self.memory.slots[index].lane = 0
        ff_exchange64(&self.memory.slots[index].state, with_status(self.memory.slots[index].state, RUNNING, self.me))
        future = ObjectFuture.__new__(ObjectFuture)
        future.runtime = self
        future.index = <uint32_t> index
        return future

    def fulfil(self, ObjectFuture future, value, bytes error=None):
        """Finishes a `promise`: with a value, or with an error as `pickling.dump_error` writes it."""
        cdef Slot *slot = &self.memory.slots[future.index]
        if error is None:
            self._write_value(slot, value)
            finish(&self.memory, self.me, future.index, DONE)
        else:
            write_result(&self.memory, slot, PyBytes_AS_STRING(error), len(error), KIND_NATIVE)
            finish(&self.memory, self.me, future.index, FAILED)

    cdef int _write_value(self, Slot *slot, value) except -1:
        """Writes an outcome into a slot that this process owns."""
        cdef Scratch scratch = self.scratch if self.scratch is not None else Scratch()
        cdef uint64_t block = 0, nbytes
        self.scratch = None
        scratch.clear()
        try:
            if encode_native(scratch, value, None, self, NATIVE_DEPTH) == NATIVE_OK:
                if scratch.size <= INLINE_BYTES:
                    memcpy(slot.data, scratch.data, scratch.size)
                else:
                    block = self.store(scratch.data, scratch.size)
                slot.result_bytes = scratch.size
                slot.result_kind = KIND_NATIVE
            else:
                data, buffers = self.pickling.dump_value(self, value)
                nbytes = pickled_size(data, buffers)
                block = arena_take(self.memory.base, nbytes)
                if block == 0:
                    raise self.full(nbytes)
                try:
                    write_pickled(self.memory.base + block, data, buffers)
                except BaseException:
                    arena_free(self.memory.base, block)
                    raise
                slot.result_bytes = nbytes
                slot.result_kind = KIND_PICKLE
        finally:
            self.scratch = scratch if scratch.room <= SCRATCH_KEPT else None
        slot.result = block
        return 0

    # ---- outcomes ----------------------------------------------------------------------------------------------------

    cdef object value_of(self, uint32_t index):
        """The value of a finished slot that the caller holds, or its error raised."""
        cdef Slot *slot = &self.memory.slots[index]
        cdef const char *at
        if status_of(slot.state) == FAILED:
            raise self.error_of(index)
        at = result_of(&self.memory, slot)
        if slot.result_kind == KIND_NATIVE:
            return decode_native(&at, at + slot.result_bytes, None)
        data, buffers = read_pickled(at)
        return self.pickling.load_value(self, data, buffers)

    cdef object error_of(self, uint32_t index):
        cdef Slot *slot = &self.memory.slots[index]
        cdef const char *at = result_of(&self.memory, slot)
        if slot.result_bytes == 0:
            return self.full(0)
        return self.pickling.load_error(*decode_native(&at, at + slot.result_bytes, None))

    cdef int check_waitable(self) except -1:
        """Raises when nothing unfinished will ever finish here."""
        if self.closed and self.is_mine():
            raise FlameError(FlameErrorCode.INVALID_STATE,
                             f"this call had not finished when its runner {self.name!r} {self.ending}; it was dropped")
        return self.check()

    cdef int wait_one(self, Handle handle, int64_t deadline) except -1:
        """Returns once the slot is finished; TimeoutError, INVALID_STATE or KeyboardInterrupt otherwise."""
        if self.is_mine() and is_finished(&self.memory, handle.index):
            return 0
        self.check_waitable()
        if deadline >= 0 and ff_now_ns() >= deadline:
            raise TimeoutError("the call has not finished in time; it goes on")
        with nogil:
            if spin_for_outcome(&self.memory, self.me, handle.index):
                return 0
        return self._sleep_until(handle.index, deadline)

    cdef int _sleep_until(self, uint32_t index, int64_t deadline) except -1:
        cdef Process *process = &self.memory.processes[self.me]
        cdef bint in_task = process.current != 0 and self.task_thread == threading.get_ident()
        cdef bint needs_help = process.current != 0 and process.role == ROLE_POOL
        cdef int64_t left, slice_ns = PATIENCE_NS if needs_help else SLICE_NS
        cdef uint32_t seen
        cdef bint blocked = False
        ff_exchange32(&self.memory.slots[index].watched, 1)
        if in_task and deadline < 0:
            ff_exchange64(&process.waits_for, index + 1)
        try:
            if in_task and deadline < 0 and self._never_ends([index]):
                raise endless_wait()
            while True:
                seen = ff_load32(&process.wake)
                if is_finished(&self.memory, index):
                    return 0
                self.check_waitable()
                left = slice_ns
                if deadline >= 0:
                    left = min(left, deadline - ff_now_ns())
                    if left <= 0:
                        raise TimeoutError("the call has not finished in time; it goes on")
                with nogil:
                    sleep_for_futures(&self.memory, self.me, seen, left)
                PyErr_CheckSignals()
                if needs_help and not blocked and not is_finished(&self.memory, index):
                    blocked = True
                    slice_ns = SLICE_NS
                    self.set_blocked(True)
        finally:
            if in_task:
                ff_exchange64(&process.waits_for, 0)
            if blocked:
                self.set_blocked(False)

    cdef bint _never_ends(self, list waited) except -1:
        """Looked at twice: the first look may have met a task in the middle of a change."""
        cdef uint32_t current = <uint32_t> self.memory.processes[self.me].current - 1
        return never_ends(&self.memory, current, waited) and never_ends(&self.memory, current, waited)

    cdef set_blocked(self, bint blocked):
        """Tells the zygote that this process's task waits for others, in whichever thread: the pool has a worker too few."""
        cdef bint before = self.blocked_threads > 0
        self.blocked_threads += 1 if blocked else -1
        if (self.blocked_threads > 0) == before:
            return
        ff_exchange32(&self.memory.processes[self.me].blocked, blocked)
        if blocked:
            wake_sleepers(&self.memory.header.pool_sleepers, &self.memory.header.pool_wake, PROCESS_COUNT)
        ring_bell(self.doorbell)

    def wait_any(self, list handles, timeout=None):
        """Sleeps until one of the handles, all of this runtime, is finished; returns the positions of all that are."""
        cdef int64_t deadline = deadline_of(timeout), left, slice_ns
        cdef uint64_t choice = 0
        cdef Process *process = &self.memory.processes[self.me]
        cdef bint in_task = process.current != 0 and self.task_thread == threading.get_ident(), blocked = False
        cdef bint needs_help = process.current != 0 and process.role == ROLE_POOL
        cdef uint32_t seen
        cdef Py_ssize_t i
        slice_ns = PATIENCE_NS if needs_help else SLICE_NS
        handles = [<Handle?> handle for handle in handles]
        for i in range(len(handles)):
            ff_exchange32(&self.memory.slots[(<Handle> handles[i]).index].watched, 1)
        try:
            if in_task and deadline < 0 and not any(handle.done() for handle in handles):
                choice = self._tell_choice(handles)
                if self._never_ends([(<Handle> handle).index for handle in handles]):
                    raise endless_wait()
            while True:
                seen = ff_load32(&process.wake)
                ready = [i for i in range(len(handles)) if is_finished(&self.memory, (<Handle> handles[i]).index)]
                if ready:
                    return ready
                self.check_waitable()
                left = slice_ns
                if deadline >= 0:
                    left = min(left, deadline - ff_now_ns())
                    if left <= 0:
                        raise TimeoutError("none of the calls has finished in time; they go on")
                with nogil:
                    sleep_for_futures(&self.memory, self.me, seen, left)
                PyErr_CheckSignals()
                if needs_help and not blocked:
                    blocked = True
                    slice_ns = SLICE_NS
                    self.set_blocked(True)
        finally:
            if choice:
                ff_exchange64(&process.waits_for, 0)
                arena_free(self.memory.base, choice)
            if blocked:
                self.set_blocked(False)

    cdef uint64_t _tell_choice(self, list handles) except 0:
        """Publishes what the running task waits for: any one of these."""
        cdef uint64_t block = arena_take(self.memory.base, 8 * (<uint64_t> len(handles) + 1))
        cdef uint64_t *words = <uint64_t *> (self.memory.base + block)
        cdef Py_ssize_t i
        if block == 0:
            raise self.full(8 * (<uint64_t> len(handles) + 1))
        words[0] = len(handles)
        for i in range(len(handles)):
            words[i + 1] = (<Handle> handles[i]).index
        ff_exchange64(&self.memory.processes[self.me].waits_for, WAITS_FOR_ANY | block)
        return block

    def get_many(self, list handles, timeout=None):
        """The values of handles of this runtime, in order; the first failure in this order is raised."""
        cdef int64_t deadline = deadline_of(timeout)
        cdef list values = []
        cdef Handle handle
        for handle in tuple(handles):       # the user's list may change while this one waits
            self.wait_one(handle, deadline)
            values.append(self.value_of(handle.index))
        return values

    def owns(self, obj):
        """Whether something is a future or ref of this runtime."""
        return isinstance(obj, Handle) and (<Handle> obj).runtime is self

    def number_input(self, dict inputs, Handle handle):
        """For the pickler: the input number of a future met inside an argument."""
        return self.input_number(inputs, handle)
