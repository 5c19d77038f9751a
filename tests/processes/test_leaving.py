"""What a worker does when it leaves in good order, and what becomes of processes that tasks have left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gates import PATIENCE_S, run_script, wait_until
from process_events import fifos

from flame_fast import Executor, Pool, Runner, WorkerDiedError


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


def lives(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


# ---- objects, threads, exit functions ----------------------------------------------------------------------------------


class Closed:
    def __init__(self, path):
        self.file = open(path, "w")  # noqa: SIM115

    def put(self, text):
        self.file.write(text)

    def close(self):
        self.file.write(" closed")
        self.file.close()


class Managed(Closed):
    close = None

    def __enter__(self):
        raise AssertionError("the object is made, not entered")

    def __exit__(self, *error):
        assert error == (None, None, None)
        Closed.close(self)


class Plain(Closed):
    close = None


@pytest.mark.parametrize("engine", ["local", "inline"])
@pytest.mark.parametrize(("kind", "written"), [(Closed, "text closed"), (Managed, "text closed"), (Plain, "text")])
def test_the_object_of_a_class_service_is_closed(project, tmp_path, engine, kind, written):
    """By `close()`, as the end of a `with` block, or as an object that nobody refers to."""
    path = tmp_path / "written"
    with Runner("leaving", engine=engine) as rr:
        rr.service(kind, args=(path,)).put("text").get(PATIENCE_S)
    assert path.read_text() == written


def test_a_closed_service_s_object_is_closed_when_its_worker_takes_up_another_service(project, tmp_path):
    path = tmp_path / "written"
    with Runner("leaving", workers=1) as rr:
        service = rr.service(Closed, args=(path,))
        service.put("text").get(PATIENCE_S)
        service.close()
        rr.service(pow)(2, 3).get(PATIENCE_S)
        assert path.read_text() == "text closed"


@pytest.mark.filterwarnings("ignore:'close' is a name of the service itself")
def test_a_copy_of_the_user_s_own_object_is_not_closed(project, tmp_path):
    """It may stand for something that the driver still uses."""
    path = tmp_path / "closed"

    class Owner:
        def nothing(self):
            pass

        def close(self):
            path.touch()

    with Runner("leaving", workers=1) as rr:
        service = rr.service(Owner())
        service.nothing().get(PATIENCE_S)
    assert not path.exists()


SCRIPT = """
import atexit, gzip, logging, logging.handlers, os, sys, tempfile, threading, time, weakref, zipfile
from flame_fast import Runner

class Told:
    def __init__(self, what):
        self.what = what
    def __del__(self):
        print("destroyed:", self.what)

def keep(path):
    global text, packed, archive, folder, told
    text = open(path + "/text", "w")
    text.write("text")
    packed = gzip.open(path + "/packed", "wt")
    packed.write("packed")
    archive = zipfile.ZipFile(path + "/archive", "w")
    archive.writestr("member", "stored")
    folder = tempfile.TemporaryDirectory(dir=path)
    told = Told("global")
    target = logging.FileHandler(path + "/log", delay=True)
    logging.getLogger().addHandler(logging.handlers.MemoryHandler(1000, target=target))
    logging.getLogger().warning("logged")
    thread = threading.Thread(target=lambda: (time.sleep(0.05), print("thread done")))
    thread.start()
    atexit.register(print, "exit function")
    weakref.finalize(told, print, "finalizer")
    return folder.name

if __name__ == "__main__":
    path = sys.argv[1]
    with Runner("leaving", workers=1) as rr:
        folder = rr.service(keep)(path).get(timeout=20)
        assert os.path.isdir(folder)
    print(os.path.exists(folder), open(path + "/text").read(), gzip.open(path + "/packed", "rt").read())
    print(zipfile.ZipFile(path + "/archive").read("member"), open(path + "/log").read().strip())
"""


def test_a_script_s_globals_end_as_at_its_interpreter_s_end(project, tmp_path):
    (project / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(tmp_path)], cwd=project, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["False text packed", "b'stored' logged"]
    assert sorted(lines[:-2]) == ["destroyed: global", "exit function", "finalizer", "thread done"]


def test_globals_of_a_module_end_too(project, tmp_path):
    (project / "kept.py").write_text(
        "file = None\ndef keep(path):\n    global file\n    file = open(path, 'w')\n    file.write('kept')\n"
    )
    run_script(
        project,
        f"""
        import kept
        from flame_fast import Runner
        with Runner("leaving", workers=1) as rr:
            rr.service(kept.keep)({str(tmp_path / "file")!r}).get(timeout=20)
        """,
    )
    assert (tmp_path / "file").read_text() == "kept"


def test_what_raises_at_the_end_is_told_and_stops_nothing(project, capfd):
    def register():
        import atexit

        atexit.register(print, "the other one runs")
        atexit.register(lambda: 1 / 0)

    class Raises:
        def nothing(self):
            pass

        def __exit__(self, *error):
            raise ValueError("of an exit")

        def __enter__(self):
            return self

    with Runner("leaving", workers=1) as rr:
        rr.get([rr.service(register)(), rr.service(Raises).nothing()], timeout=PATIENCE_S)
    out, err = capfd.readouterr()
    assert out == "the other one runs\n"
    assert "ZeroDivisionError" in err and "ValueError: of an exit" in err


def test_a_worker_that_does_not_leave_is_killed(project, tmp_path):
    """A thread that never ends, as loky's of a broken executor: `close` takes its two seconds at most."""

    def stay():
        import threading

        threading.Thread(target=threading.Event().wait).start()
        return os.getpid()

    with Runner("leaving", workers=1) as rr:
        pid = rr.service(stay)().get(PATIENCE_S)
        begun = time.monotonic()
    assert time.monotonic() - begun < 20
    assert not lives(pid)


def test_a_worker_replaced_after_some_calls_leaves_in_good_order(project, tmp_path):
    path = tmp_path / "ended"

    def register():
        import atexit

        atexit.register(os.write, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b"x")

    with Executor(1, max_tasks_per_child=1) as executor:
        for number in range(3):
            executor.submit(register).result(PATIENCE_S)
            wait_until(lambda number=number: path.exists() and len(path.read_text()) > number, "the worker has left")


@pytest.mark.parametrize("begun", [False, True])
def test_coroutines_left_behind_are_cancelled(project, tmp_path, begun):
    """Also one that keeps its worker from becoming idle while the runner ends."""
    path = tmp_path / "cancelled"
    tasks = []

    async def leave_behind():
        import asyncio

        async def wait():
            try:
                if not begun:
                    time.sleep(0.2)
                await asyncio.sleep(PATIENCE_S)
            finally:
                path.touch()

        tasks.append(asyncio.create_task(wait()))
        if begun:
            await asyncio.sleep(0)

    with Runner("leaving", workers=1) as rr:
        rr.service(leave_behind, concurrency=2)().get(PATIENCE_S)
        assert not path.exists()
    assert path.exists()


def test_a_signal_s_handler_that_raises_costs_an_idle_worker_nothing(project):
    """A forgotten alarm of a task that has ended."""

    def forget():
        def late(number, frame):
            raise TimeoutError("a forgotten alarm")

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        return os.getpid()

    def pid():
        signal.setitimer(signal.ITIMER_REAL, 0)
        return os.getpid()

    with Runner("leaving", workers=1) as rr:
        first = rr.service(forget)().get(PATIENCE_S)
        time.sleep(0.3)  # for the alarms, which are what the worker waits for
        assert rr.service(pid)().get(PATIENCE_S) == first


# ---- processes ---------------------------------------------------------------------------------------------------------


def start(command):
    """Start a process from a task and leave it behind."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid


@pytest.mark.parametrize("script", ["sleep 1000", "trap '' TERM; while :; do sleep 1; done", "sleep 1000 & sleep 1000"])
def test_processes_of_tasks_end_with_the_runner(project, fifo, script):
    path = fifo("pids")
    with Runner("leaving", workers=1) as rr:
        rr.service(start)(["sh", "-c", f"echo $$ > {path.path}; {script}"]).get(PATIENCE_S)
        (pid,) = path.read_pids(1)
        assert lives(pid)
    assert not lives(pid)


def test_processes_of_a_dead_worker_end_with_the_runner_and_zombies_are_reaped(project):
    def start_and_die():
        pid = start(["sleep", "1000"])
        os.kill(os.getpid(), signal.SIGKILL)
        return pid

    def children_of_the_supervisor():
        tree = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
        return [int(pid) for pid in tree]

    with Runner("leaving", workers=1) as rr:
        with pytest.raises(WorkerDiedError):
            rr.service(start_and_die)().get(PATIENCE_S)
        children = rr.service(children_of_the_supervisor)().get(PATIENCE_S)
        handed = [pid for pid in children if "sleep" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(handed) == 1
        with pytest.raises(WorkerDiedError):
            rr.service(lambda: (os.kill(handed[0], signal.SIGKILL), os.kill(os.getpid(), signal.SIGKILL)))().get(PATIENCE_S)
        wait_until(lambda: not Path(f"/proc/{handed[0]}").exists(), "the supervisor reaps what it was handed")
        with pytest.raises(WorkerDiedError):
            rr.service(start_and_die)().get(PATIENCE_S)
        left = rr.service(children_of_the_supervisor)().get(PATIENCE_S)
    assert not any(map(lives, left))


def test_processes_end_after_their_supervisor_has_died(project):
    with Runner("leaving", workers=1) as rr:
        pid = rr.service(start)(["sleep", "1000"]).get(PATIENCE_S)
        worker, supervisor = rr.get([rr.service(os.getpid)(), rr.service(os.getppid)()])
        os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: not lives(worker), "the worker, which may still take a call, dies with its supervisor")
        assert rr.service(pow)(2, 3).get(PATIENCE_S) == 8
        assert lives(pid)
    assert not lives(pid)


def test_processes_end_with_a_driver_that_is_killed(project, fifo):
    path = fifo("pids")
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, time\nfrom flame_fast import Runner\nrr = Runner('leaving', workers=1)\n"
            f"rr.service(lambda: subprocess.Popen(['sh', '-c', 'echo $$ > {path.path}; sleep 1000']).pid)().get()\n"
            "time.sleep(1000)",
        ],
        cwd=project,
    )
    (pid,) = path.read_pids(1)
    driver.kill()
    driver.wait()
    wait_until(lambda: not lives(pid), "the task's process ends")


def test_a_process_that_detached_stays(project):
    def detach():
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    with Runner("leaving", workers=1) as rr:
        pid = rr.service(detach)().get(PATIENCE_S)
    assert lives(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lives(pid), "it ends")


def test_the_pools_that_tasks_start_end(project):
    """Loky's workers and children of multiprocessing: their parent ends them as it would at its own end."""

    def start_pools():
        import multiprocessing

        import joblib

        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
        child.start()
        pids = joblib.Parallel(2, backend="loky")(joblib.delayed(os.getpid)() for _ in range(8))
        return [child.pid, *pids]

    with Pool(1) as pool:
        pids = pool.apply(start_pools)
        assert all(map(lives, pids))
        pool.close()
        pool.join()
    assert not any(map(lives, pids))
