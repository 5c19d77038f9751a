# Callbacks of futures: one thread per process and runner runs them as the futures finish.
#
# The thread reads this process's log of finished calls, as `Selector` does, so that it looks at what has finished and not at
# what is waited for. It begins with the first callback. When there is none any more it stays awake for LINGER_NS, since the
# next one often follows, and then sleeps until there is.
#
# Guarantees: each callback runs once, also when the runner is closed before the call has finished.
# uses: handle, waits, outcomes

from libc.stdint cimport int64_t
from .core.externs cimport ff_now_ns
from .core.layout cimport DRIVER_INDEX
from .core.lookup cimport is_finished
from .core.wakeup cimport wake_waiters

cdef enum:
    LINGER_NS = 50_000_000
    JOIN_S = 1                  # seconds that `finish` waits for a callback that runs

cdef class CallbackWait(AnyWait):
    """A wait for any of the futures that have callbacks. `pending`: slot -> list of (future, callback)."""
    cdef bint ended

    cdef bint ready(self) except -1:
        return AnyWait.ready(self) or self.ended

cdef class Notifier:
    """Runs callbacks of the futures of one client. Safe from any thread."""
    cdef Outcomes runtime
    cdef CallbackWait wait
    cdef object thread          # None until the first callback
    cdef object wanted          # an Event: there are callbacks to wait for, or the runner has ended

    def __init__(self):
        raise TypeError("a Notifier is made by ObjectFuture.add_done_callback")

    cdef int add(self, SlotReference future, function) except -1:
        """Have a function called with a future, once it is done: at once, if it is."""
        self.wait.add(future.index, (future, function))
        if is_finished(&self.runtime.memory, future.index) or self.wait.ended:
            self.call(self.wait.pending.pop(future.index, ()))
            return 0
        if self.thread is None:
            self.start()
        elif not self.wanted.is_set():
            self.wanted.set()
        return 0

    cdef int discard(self, SlotReference future, function) except -1:
        """Forget a callback, unless it has run or is about to."""
        entries = self.wait.pending.get(future.index)
        if entries is None:
            return 0
        kept = [entry for entry in entries if entry[1] is not function]
        if kept:
            entries[:] = kept
        else:
            self.wait.pending.pop(future.index, None)
        return 0

    cdef int start(self) except -1:
        import threading
        self.wanted = threading.Event()
        self.wanted.set()
        self.thread = threading.Thread(target=self.run, name="flame-callbacks", daemon=True)
        try:
            self.thread.start()
        except RuntimeError as error:
            self.thread = None
            from flame_fast.scarcity import no_thread
            raise no_thread(error, "to run the callbacks of futures") from error

    def run(self):
        """Run callbacks until the runner has ended; then those of futures that can never finish."""
        try:
            while not self.wait.ended:
                self.wanted.wait()
                try:
                    self.runtime._sleep_until(self.wait, -1 if self.wait.pending else self.lingers_until(), False)
                except TimeoutError:
                    self.wanted.clear()
                    if self.wait.pending:           # added meanwhile
                        self.wanted.set()
                    continue
                self.call(self.take_found())
        except FlameError:                          # the runner is closed, or nothing runs any more
            pass
        self.wait.ended = True
        while self.wait.pending:
            self.call(self.wait.pending.popitem()[1])

    cdef list take_found(self):
        found, self.wait.found = self.wait.found, []
        return found

    cdef int64_t lingers_until(self) noexcept:
        """Return until when to stay awake without callbacks. In a worker not at all: its pool would count it as blocked."""
        return ff_now_ns() + LINGER_NS if self.runtime.me == DRIVER_INDEX else 0

    def call(self, entries):
        self.runtime.show_printed()
        for future, function in entries:
            try:
                function(future)
            except Exception:
                import logging
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)

    def finish(self):
        """End the thread, once the runner is marked as closed; wait a moment for the callback that runs."""
        import threading
        self.wait.ended = True
        if self.thread is None:
            return
        self.wanted.set()
        wake_waiters(&self.runtime.memory, self.runtime.me)
        if threading.current_thread() is not self.thread:
            self.thread.join(JOIN_S)

cdef Notifier notifier_of(Outcomes runtime):
    cdef Notifier notifier
    cdef CallbackWait wait
    if runtime.notifier is None:
        notifier = Notifier.__new__(Notifier)
        wait = CallbackWait.__new__(CallbackWait)
        begin_any(wait, &runtime.memory)
        wait.ended = runtime.closed
        notifier.runtime = runtime
        notifier.wait = wait
        runtime.notifier = notifier
    return <Notifier> runtime.notifier
