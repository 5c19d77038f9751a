"""Worker process: from the zygote's fork to the end of `Worker.serve`."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import pickle
import signal
import sys

from flame_fast.engine import settings
from flame_fast.engine.capture import Capture, Mirror
from flame_fast.engine.current import register, set_project, set_serving_engine
from flame_fast.engine.leaving import forget_exit_functions, leave
from flame_fast.engine.log_records import RecordSender
from flame_fast.engine.post_mortem import users_paths
from flame_fast.engine.seeds import Seeds, reseed
from flame_fast.engine.segment import SegmentEngine
from flame_fast.engine.slow_steps import StepSender
from flame_fast.engine.spawn import start_time
from flame_fast.engine.task_host import Host
from flame_fast.engine.thread_limits import Libraries
from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.kernels.runtime import die_with_parent
from flame_fast.kernels.runtime.serialization.by_file import exchange_imported
from flame_fast.kernels.runtime.serialization.carried import never_unlink_attached
from flame_fast.kernels.runtime.serialization.definitions import Namespace
from flame_fast.kernels.runtime.serialization.picklers import note_package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from flame_fast.kernels.runtime import Worker
    from flame_fast.package.sys_path import ModuleSet


#: The supervisor's streams. Their ends would write out once more what it has printed.
_inherited: list[Any] = []


class WorkerEngine(SegmentEngine):
    """The engine as a task sees it: the outer runner's processes serve its services and calls."""

    def set_project(self, project: dict[str, Any]) -> None:
        raise AssertionError("a nested runner has the outer runner's project")

    def close(self, ending: str) -> int:
        """Do nothing: the outer runner ends the processes."""
        return 0


class PipeEnd(io.FileIO):
    """The write end of a pipe to the driver, which tells of each write.

    Parameters
    ----------
    fd : int
    told : callable
        Called after each write.
    """

    def __init__(self, fd: int, told: Callable[[], object]) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._told = told
        self.is_open: bool = False  # the last line written has not ended

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except BrokenPipeError:  # the driver had no descriptor left for the pipe, and says so
            return len(data)
        if written:
            self.is_open = memoryview(data).cast("B")[written - 1] not in b"\r\n"
            self._told()
        return written


class PipeBuffer(io.BufferedWriter):
    """Bytes for a pipe, which are written out before the outcome of the call is published that wrote them."""

    def __init__(self, raw: PipeEnd, partial: list[Any], stream: LineStream) -> None:
        super().__init__(raw)
        self._hold = partial, stream

    def write(self, data: Any) -> int:
        _hold(*self._hold)
        return super().write(data)


class LineStream(io.TextIOWrapper):
    """A text stream to the driver that writes whole lines, and notes when it may hold part of a line.

    Parameters
    ----------
    fd : int
        The pipe's write end.
    partial : list
        Gets the stream when it may hold part of a line.
    shown : callable
        Turns paths of the unpacked project in a text into the user's own.
    told : callable
        Called after each write to the pipe.
    """

    def __init__(
        self, fd: int, partial: list[Any], shown: Callable[[str], str] = str, told: Callable[[], object] = bool
    ) -> None:
        self._pipe = PipeEnd(fd, told)
        super().__init__(
            PipeBuffer(self._pipe, partial, self), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        self._partial = partial
        self._shown = shown
        self.capture: Capture | None = None

    def write(self, text: str) -> int:
        if self.capture is not None:
            return self.capture.write(self._shown(text))
        if text and not text.endswith("\n"):
            _hold(self._partial, self)
        super().write(self._shown(text))
        return len(text)

    def end_line(self) -> None:
        """Write out what is held, and end the line."""
        with contextlib.suppress(ValueError, OSError):  # closed, or the driver is gone
            self.flush()
            if self._pipe.is_open:
                self._pipe.write(b"\n")


def _hold(partial: list[Any], stream: LineStream) -> None:
    """Note that a stream may hold part of a line; a task may write many pieces."""
    if not partial or partial[-1] is not stream:
        partial.append(stream)


class Project:
    """The unpacked package that this worker imports the user's code from; the first service it loads unpacks it."""

    def __init__(self, runtime: Worker, libraries: Libraries) -> None:
        self._runtime = runtime
        self._libraries = libraries
        self.records: RecordSender = RecordSender(runtime.session, self.shown, runtime.note_output)
        self.steps: StepSender = StepSender(self.records)
        self._unpacked = self._directory = self._home = ""
        self._number = 0
        self._sets: dict[int, ModuleSet] = {}
        self.initializer: bytes | None = None  # what to call before the first task, pickled

    def prepare(self) -> None:
        """Unpack the project if no process has yet, and make it importable."""
        setup = self._runtime.get_setup()
        plan = pickle.loads(setup) if setup else None
        if plan is None:
            return
        from flame_fast.package import sys_path

        sys.argv[:] = plan["argv"]
        settings.apply(plan["settings"], self._libraries)
        if plan["authkey"]:
            self._libraries.when_loaded("multiprocessing.process", lambda: _take_key(plan["authkey"]))
        self._home = plan["home"]
        self._runtime.max_tasks = plan["max_tasks"]
        self.initializer = plan["initializer"]
        if plan["tell_steps"]:
            self.steps.want()
            self._libraries.when_loaded("numba", self.steps.watch_compiler)
        self._directory = plan["directory"]
        first = self._sets[0] = self._unpack(plan)
        self._go_on_with(first)
        self._libraries.when_loaded("numba", self._share_compiled_code)
        if first.places is not None:
            self._libraries.when_loaded("linecache", sys_path.show_packaged_lines)

    def enter(self, plan: dict[str, Any] | None) -> None:
        """Import from another snapshot from now on; the modules that were imported from this one come back with it."""
        number = 0 if plan is None else plan["number"]
        before = list(sys.path)
        if number not in self._sets:
            assert plan is not None  # `prepare` has made the first
            self._sets[number] = self._unpack(plan)
        if self._number in self._sets:
            self._sets[self._number].leave(before, exchange_imported)
        self._sets[number].enter(exchange_imported)
        self._number = number
        set_project(plan)
        self._go_on_with(self._sets[number])
        if "numba" in sys.modules:
            self._share_compiled_code()

    def _unpack(self, plan: dict[str, Any]) -> ModuleSet:
        """Unpack a snapshot and import from it."""
        from flame_fast.package import sys_path

        try:
            with self.steps.step("unpacks the project, if no other process does"):
                tree, places = sys_path.prepare(plan)
        except OSError as error:
            raise FlameError(
                FlameErrorCode.INTERNAL,
                f"unpacking the project for the workers, into {plan['home']}/unpacked: {error}; $FLAME_FAST_HOME moves it",
            ) from error
        return sys_path.ModuleSet(plan["directory"], tree, places)

    def _go_on_with(self, modules: ModuleSet) -> None:
        self._unpacked = modules.tree
        if modules.places is not None:
            note_package(self._runtime.session, modules.places.holds)

    def _share_compiled_code(self) -> None:
        share_compiled_code(self._unpacked, self._directory, self._home)

    @property
    def directories(self) -> tuple[str, str]:
        """Where the user's modules are, unpacked and with the user. Empty before `prepare`."""
        return self._unpacked, self._directory

    def kept_modules(self) -> list[ModuleType]:
        """Return the user's modules of the snapshots that this worker does not import from just now."""
        return [module for modules in self._sets.values() for module in modules.kept()]

    def shown(self, text: str) -> str:
        """Return a text with the user's paths in place of the unpacked project's."""
        return users_paths(text, self._unpacked, self._directory) if self._unpacked else text


def _take_key(key: bytes) -> None:
    """Set the driver's authentication key: its `multiprocessing` managers know their clients by it."""
    from multiprocessing import process

    process.current_process().authkey = key


def run(index: int, token: int, outputs: tuple[int, int, int], zygote: int, runtime: Worker) -> None:
    """Serve as process `index`; the caller has just forked, and ends the process afterwards.

    `outputs`: descriptors of standard output and error, and for the fault handler (-1: standard error).
    """
    stdout, stderr, stack = outputs
    die_with_parent(signal.SIGKILL)
    if os.getppid() != zygote:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    forget_exit_functions()
    runtime.become(index, runtime.name, runtime.doorbell_fd)
    if not runtime.claim_entry(token, os.getpid(), start_time(os.getpid())):
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    faulthandler.enable(stack if stack >= 0 else 2)
    reseed()
    libraries = Libraries()
    libraries.when_loaded("numpy", runtime.install_array_allocator)
    libraries.watch_imports()
    libraries.when_loaded("multiprocessing.shared_memory", never_unlink_attached)
    project = Project(runtime, libraries)
    told = runtime.note_output
    host = Host(
        runtime,
        project.prepare,
        project.shown,
        libraries,
        Namespace.enter,
        Seeds(runtime, libraries),
        lambda call: Capture(call, streams, mirror),
        lambda: project.initializer,
        project.records.follow,
        project.steps,
        project.enter,
    )
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    mirror = Mirror(stack)
    streams = (
        LineStream(1, host.partial, told=told),
        LineStream(2, host.partial, project.shown, told),  # warnings and logs name files
    )
    _inherited.extend((sys.__stdout__, sys.__stderr__))
    sys.stdout, sys.stderr = streams
    sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]
    libraries.when_loaded("logging", project.records.install)
    engine = WorkerEngine(runtime)
    register(engine)
    set_serving_engine(engine)
    _serve(runtime, host, project)


def _serve(runtime: Worker, host: Host, project: Project) -> None:
    while True:
        try:
            runtime.serve(host)
            break
        except KeyboardInterrupt:  # a signal sent to this worker between two tasks
            continue
        except SystemExit:  # a task's handler of a signal
            break
        except BaseException as error:
            if not _is_of_a_handler(error):
                raise
            sys.excepthook(*sys.exc_info())
    os.eventfd_write(runtime.doorbell_fd, 1)  # another one may take its place
    leave(host, project.directories, project.kept_modules())
    host.flush()


def _is_of_a_handler(error: BaseException) -> bool:
    """Tell whether a task's handler of a signal, as of a forgotten alarm, has raised this between two tasks."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("flame_fast."):
        frames = frames.tb_next
    return frames is not None


def share_compiled_code(unpacked: str, directory: str, home: str) -> None:
    from flame_fast.kernels.jit.cache import share_cache

    share_cache(unpacked, directory, home)


def run_and_exit(start: Callable[[], None]) -> None:
    """Run a forked child from start to exit; never return into the zygote's frames."""
    code = 1
    try:
        start()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
