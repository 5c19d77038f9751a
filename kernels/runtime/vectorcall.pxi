# The entry of a call: `service(x)` comes here by vectorcall, without a Python frame in between.
# uses: future, call_policy, client

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from .core.layout cimport NO_METHOD

cdef extern from "Python.h":
    ctypedef PyObject *(*vectorcallfunc)(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names)
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    const Py_ssize_t PY_SSIZE_T_MAX
    void PyType_Modified(PyTypeObject *type)

cdef extern from *:
    """
    static void ff_has_vectorcall(PyTypeObject *type, Py_ssize_t offset) {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    void ff_has_vectorcall(PyTypeObject *type, Py_ssize_t offset)

cdef class CallTarget:
    """The base of services and methods: each call returns an `ObjectFuture` at once. Safe from any thread."""
    cdef vectorcallfunc vectorcall
    cdef Client runtime
    cdef uint32_t service, queue, method
    cdef uint64_t generation
    cdef object state           # returns the user function's captured state at this call; None: it has none
    cdef object after           # called after each call; None: nothing is
    cdef CallPolicy policy      # of its calls; None: no limits, no retries
    cdef CallNumbers numbers    # of the service's calls; None: nobody counts them
    cdef object submit          # an engine without a segment: called in place of the runtime
    cdef Py_ssize_t fewest, most        # positional arguments that a call may have, where that is known
    cdef str label              # what the futures of its calls say they are of

    def __cinit__(self):
        self.vectorcall = <vectorcallfunc> call_vector
        self.most = PY_SSIZE_T_MAX

    @classmethod
    def __class_getitem__(cls, types):
        """Return the type with those of its arguments and value, for annotations: `RunnerService[[int], str]`."""
        return GenericAlias(cls, types)

    def expect_arguments(self, Py_ssize_t fewest, Py_ssize_t most):
        """Refuse calls by `_refuse_arguments()` that have fewer positional arguments, and none by name, or more."""
        self.fewest = fewest
        self.most = most

    def bind(self, Client runtime, ids, uint32_t method, state=None, after=None, CallPolicy policy=None,
             str label=None):
        """Set what is called.

        Parameters
        ----------
        runtime : Client
        ids : tuple of int
            (service, generation, queue) as `add_service` returned them.
        method : int
            The method's number; `UNCALLABLE` if a call makes no sense: then `refuse()` is called, which raises.
        state : callable, optional
            Its return value travels with each call, for `flame_fast.calls.captures.with_state`.
        after : callable, optional
            Called after each call was queued.
        policy : CallPolicy, optional
            Limits of the calls, and when they are tried again.
        label : str, optional
            Name of the calls, in their futures' reprs: a closed service's entry, which has its name, is another's later.
        """
        self.runtime = runtime
        self.submit = None
        self.service, self.generation, self.queue = ids
        self.method = method
        self.state = state
        self.after = after
        self.policy = policy
        self.label = label

    def number_calls(self, CallNumbers numbers):
        """Have each call carry its number among its service's, for `task_key`. An engine without a segment does not."""
        self.numbers = numbers

    def numbers_of_map(self, length=None):
        """Return the numbers of the items of a map that begins now, None: it has none; `length`: how many, if known."""
        return None if self.numbers is None else MapNumbers(self.numbers, length)

    def call_as(self, int64_t number, tuple values):
        """Make the call of this number: one of those that `numbers_of_map` has set aside."""
        if not self.fewest <= len(values) <= self.most:
            self._refuse_arguments(*values)
        return self.enqueue(values, len(values), (), 0, number)

    def bind_submit(self, submit, uint32_t method, state=None):
        """Bind to an engine without a segment, whose calls enter Python.

        Parameters
        ----------
        submit : callable
            Called as `submit(method, state, args, kwargs)` with what `state()` returned, or None; returns the call's future.
        method, state
            As for `bind`.
        """
        self.runtime = None
        self.submit = submit
        self.method = method
        self.state = state
        self.after = None

    def __call__(self, *args, **kwargs):
        names = tuple(kwargs)
        values = args + tuple(kwargs.values())
        return self.enqueue(values, len(args), names, 0)

    cdef object enqueue(self, tuple values, Py_ssize_t count, tuple names, uint32_t flags, int64_t number=-1):
        return call_vector_of(self, (<PyTupleObject *> values).ob_item, count, <PyObject *> names, flags, number)

cdef extern from "Python.h":
    ctypedef struct PyTupleObject:
        PyObject *ob_item[1]

cdef object call_vector(CallTarget self, PyObject *const *args, size_t nargsf, PyObject *names):
    cdef Py_ssize_t count = PyVectorcall_NARGS(nargsf)
    if count > self.most or (names == NULL and count < self.fewest):
        values, named = arguments_of(args, count, names)
        self._refuse_arguments(*values, **named)
    return call_vector_of(self, args, count, names, 0, -1)

cdef object call_vector_of(CallTarget self, PyObject *const *args, Py_ssize_t count, PyObject *names, uint32_t flags,
                           int64_t number):
    cdef ObjectFuture future
    if self.method == NO_METHOD or self.runtime is None:
        return call_elsewhere(self, args, count, names)
    future = self.runtime.call(self.service, self.generation, self.queue, self.method, flags, args, count, names,
                               None if self.state is None else self.state(), self.policy, self.numbers, number)
    future.label = self.label
    if self.after is not None:
        self.after()
    return future

cdef object call_elsewhere(CallTarget self, PyObject *const *args, Py_ssize_t count, PyObject *names):
    """A call that no segment takes: an engine without one does, or it makes no sense."""
    if self.method == NO_METHOD or self.submit is None:
        return self.refuse()
    values, named = arguments_of(args, count, names)
    return self.submit(self.method, None if self.state is None else self.state(), values, named)

cdef tuple arguments_of(PyObject *const *args, Py_ssize_t count, PyObject *names):
    """Return a call's arguments: a tuple, and a dict of those by name."""
    cdef Py_ssize_t i
    values = tuple([<object> args[i] for i in range(count)])
    return values, {} if names == NULL else {name: <object> args[count + i] for i, name in enumerate(<tuple> names)}

cdef Py_ssize_t vectorcall_offset():
    cdef CallTarget one = CallTarget.__new__(CallTarget)
    return <char *> &one.vectorcall - <char *> <PyObject *> one

ff_has_vectorcall(<PyTypeObject *> CallTarget, vectorcall_offset())

def call_without_frames(kind):
    """Make a subclass of `CallTarget`, without a `__call__` of its own, as fast to call as that; return it."""
    if not issubclass(kind, CallTarget) or kind.__call__ is not CallTarget.__call__:
        raise TypeError(f"kind: expected a subclass of CallTarget without a __call__ of its own, got {kind!r}")
    ff_has_vectorcall(<PyTypeObject *> kind, vectorcall_offset())
    return kind
