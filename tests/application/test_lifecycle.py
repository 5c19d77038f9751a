"""An application's life as a user sees it: registered while a Runner is in it, gone with the last one out."""

from __future__ import annotations

import os
import tarfile
import threading
from pathlib import Path

import pytest
from applications import registered
from process_events import (
    PATIENCE_S,
    Driver,
    Fifo,
    Victim,
    children,
    double,
    fifos,
    leavings,
    open_pidfds,
    run_driver,
    still_alive,
    workers,
    zygotes,
)

from flame_fast import (
    ApplicationAttributes,
    FlameContext,
    FlameError,
    FlameErrorCode,
    Runner,
    get_application,
    register_application,
    unregister_application,
)


@pytest.fixture
def fifo(tmp_path):
    yield from fifos(tmp_path)


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    """Everything in a directory, with sizes and times of change."""
    return {
        str(path.relative_to(directory)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in [directory, *directory.rglob("*")]
    }


def packages(home: Path) -> list[Path]:
    return [Path(path) for path in leavings(home) if path.endswith(".tar.gz")]


@pytest.fixture
def storage(tmp_path, nothing_left):
    """Make a configured storage directory and its configuration."""
    directory = tmp_path / "storage"
    directory.mkdir()
    configuration = tmp_path / "flame.yaml"
    configuration.write_text(f"current-context: t\ncontexts:\n  - name: t\n    package: {{storage: 'file://{directory}'}}\n")
    return directory, configuration


# ---- entry and exit --------------------------------------------------------------------------------------------------


def test_entry_registers_and_exit_removes_everything(project, nothing_left):
    (project / "code.py").write_text("VALUE = 1\n")
    with Runner("life", workers=2) as rr:
        application = get_application("life")
        assert application is not None and registered() == ["life"]
        assert application.working_directory == str(project)
        (package,) = packages(nothing_left)
        assert application.url == f"file://{package}"
        assert package.name.startswith("life-")
        with tarfile.open(package) as archive:
            assert "code.py" in archive.getnames()
        template = get_application("flmrun")
        for field in ("shim", "command", "arguments", "image", "environments", "max_instances"):
            assert getattr(application, field) == getattr(template, field), field
        rr.service(double)(1).get(PATIENCE_S)
        ends = open_pidfds([*workers(), *zygotes()])
    assert get_application("life") is None and registered() == []
    assert leavings(nothing_left) == []
    assert still_alive(ends, 10.0) == []
    assert children(os.getpid()) == []


def test_the_constructor_does_the_work(nothing_left):
    rr = Runner("constructed", workers=1)
    try:
        assert registered() == ["constructed"] and len(packages(nothing_left)) == 1
        with rr as entered:
            assert entered is rr
            assert rr.service(double)(1).get(PATIENCE_S) == 2
        assert leavings(nothing_left) == []
    finally:
        rr.close()


def test_a_configured_storage_holds_the_package(storage):
    directory, configuration = storage
    with Runner("stored", workers=1, context=FlameContext(configuration)) as rr:
        (package,) = directory.iterdir()
        application = get_application("stored")
        assert application is not None and application.url == f"file://{package}"
        assert rr.service(double)(1).get(PATIENCE_S) == 2
    assert list(directory.iterdir()) == []


def test_nothing_is_written_into_the_users_directory(project):
    (project / "package").mkdir()
    (project / "package" / "__init__.py").write_text("")
    (project / "package" / "code.py").write_text("def work(): return 5\n")
    (project / "main.py").write_text(
        "from flame_fast import Runner\nfrom package.code import work\n"
        "with Runner('clean', dependencies=['numpy'], workers=2) as rr:\n"
        "    print(rr.service(work)().get())\n    rr.service(print)('printed').get()\n"
    )
    before = listing(project)
    for ending in ("", "rr = Runner('clean'); rr.service(work)().get(); os._exit(0)"):
        driver = Driver(
            f"""
            sys.dont_write_bytecode = True
            sys.path.insert(0, {str(project)!r})
            exec(open("main.py").read())
            {ending}
            """,
            project.parent,
        )
        ends = open_pidfds(zygotes(driver.pid))
        out, err = driver.finish()
        assert (driver.returncode, err) == (0, "")
        assert sorted(out.split()) == ["5", "printed"]
        assert still_alive(ends, 10.0) == []
        assert listing(project) == before
    with Runner("clean", workers=1):
        pass
    assert listing(project) == before


def test_a_directory_that_cannot_be_written_is_no_obstacle(project):
    (project / "code.py").write_text("def work(): return 5\n")
    project.chmod(0o555)
    try:
        with Runner("read-only", workers=1, dependencies=["numpy"]) as rr:
            assert rr.service(double)(1).get(PATIENCE_S) == 2
    finally:
        project.chmod(0o755)
    assert [path.name for path in project.iterdir()] == ["code.py"]


def test_a_runner_may_be_entered_again_and_again(nothing_left):
    for number in range(5):
        with Runner("again", workers=1, fail_if_exists=True) as rr:
            assert rr.service(double)(number).get(PATIENCE_S) == 2 * number
        assert leavings(nothing_left) == []


# ---- the same name again ---------------------------------------------------------------------------------------------


def test_fail_if_exists(nothing_left):
    with Runner("taken", workers=1) as rr:
        before = leavings(nothing_left)
        with pytest.raises(FlameError) as caught:
            Runner("taken", fail_if_exists=True, workers=1)
        assert caught.value.code is FlameErrorCode.ALREADY_EXISTS
        assert "'taken'" in caught.value.message
        assert leavings(nothing_left) == before
        assert len(zygotes()) == 1
        assert rr.service(double)(1).get(PATIENCE_S) == 2
    with Runner("taken", fail_if_exists=True, workers=1):
        assert registered() == ["taken"]


def test_fail_if_exists_sees_another_process(tmp_path, fifo):
    said, gate = fifo("said"), fifo("gate")
    driver = Driver(
        "said, gate = sys.argv[1:]\nwith Runner('taken', workers=1):\n    tell(said, 'in')\n    pass_gate(gate)",
        tmp_path,
        said,
        gate,
    )
    assert said.read_line() == "in"
    with pytest.raises(FlameError) as caught:
        Runner("taken", fail_if_exists=True, workers=1)
    assert caught.value.code is FlameErrorCode.ALREADY_EXISTS
    gate.open_gate()
    assert driver.finish() == ("", "")
    with Runner("taken", fail_if_exists=True, workers=1):
        pass


def test_fail_if_exists_takes_over_from_a_dead_owner(tmp_path):
    """The owner and its supervisor (zygote) were killed at once: the registration is a dead owner's."""
    driver = Driver(
        "rr = Runner('orphaned', workers=1)\nrr.service(double)(1).get()\n"
        "for pid in zygotes(): os.kill(pid, signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGKILL)",
        tmp_path,
    )
    driver.wait(PATIENCE_S)
    try:
        assert "orphaned" in registered()
        with Runner("orphaned", fail_if_exists=True, workers=1) as rr:
            assert rr.service(double)(1).get(PATIENCE_S) == 2
    finally:
        from owned_processes import processes_of

        for pid in processes_of(Path(os.environ["FLAME_FAST_HOME"])):
            os.kill(pid, 9)
        driver.finish()


@pytest.mark.parametrize("first_out", ["first", "second"])
def test_two_runners_of_a_process_share_the_registration(first_out, nothing_left):
    first, second = Runner("shared", workers=1), Runner("shared", workers=1)
    assert registered() == ["shared"]
    assert len(zygotes()) == 2
    leaving, staying = (first, second) if first_out == "first" else (second, first)
    service = staying.service(double)
    leaving.close()
    assert registered() == ["shared"]
    application = get_application("shared")
    assert application is not None and application.url is not None
    assert Path(application.url.removeprefix("file://")).exists()
    assert service(4).get(PATIENCE_S) == 8
    staying.close()
    assert leavings(nothing_left) == []


#: Joins "shared" from a directory of its own, works, says so, and leaves when told.
JOINING = """
said, gate, directory, value = sys.argv[1:]
os.makedirs(directory)
os.chdir(directory)
with open("mine.py", "w") as stream:
    stream.write(f"def value(): return {value!r}\\n")
sys.path.insert(0, directory)
import mine
with Runner("shared", workers=1) as rr:
    tell(said, rr.service(mine.value)().get(20))
    pass_gate(gate)
    print(rr.service(mine.value)().get(20))
"""


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_processes_share_the_registration_and_nothing_else(first_out, nothing_left, tmp_path, fifo):
    """Each runs the snapshot of its own directory; the last one out removes what is left."""
    said = fifo("said")
    gates: list[Fifo] = [fifo("gate0"), fifo("gate1")]
    drivers = []
    for number, gate in enumerate(gates):
        drivers.append(Driver(JOINING, tmp_path, said, gate, tmp_path / f"project{number}", f"value-{number}"))
        assert said.read_line() == f"value-{number}"
    assert registered() == ["shared"]
    assert len(packages(nothing_left)) == 2
    for position, number in enumerate((first_out, 1 - first_out)):
        gates[number].open_gate()
        assert drivers[number].finish() == (f"value-{number}\n", "")
        assert registered() == (["shared"] if position == 0 else [])
        application = get_application("shared")
        if position == 0:
            assert application is not None and application.url is not None
            assert [Path(application.url.removeprefix("file://"))] == packages(nothing_left)
            assert application.working_directory == str(tmp_path / f"project{1 - number}")
    assert leavings(nothing_left) == []


def test_two_runners_with_the_same_snapshot_share_the_package(nothing_left):
    with Runner("same", workers=1) as first:
        with Runner("same", workers=1) as second:
            assert len(packages(nothing_left)) == 1
            assert second.service(double)(1).get(PATIENCE_S) == 2
        assert len(packages(nothing_left)) == 1
        assert first.service(Victim).add(1).get(PATIENCE_S) == 1  # the first worker unpacks only now


def test_each_runner_closes_its_own_services_only():
    with Runner("own", workers=1) as first:
        instance = first.service(Victim())
        with Runner("own", workers=1) as second:
            second.service(Victim()).add(5).get(PATIENCE_S)
        assert instance.add(1).get(PATIENCE_S) == 1


def test_many_enter_and_leave_at_once(nothing_left):
    problems = []
    barrier = threading.Barrier(6)

    def live(number: int) -> None:
        barrier.wait()
        try:
            for _ in range(3):
                with Runner(f"crowd-{number % 2}", workers=1) as rr:
                    assert f"crowd-{number % 2}" in registered()
                    assert rr.service(double)(number).get(PATIENCE_S) == 2 * number
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=live, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert problems == [] and not any(thread.is_alive() for thread in threads)
    assert leavings(nothing_left) == []


def test_an_application_registered_by_hand_is_joined_and_stays():
    register_application("by-hand", ApplicationAttributes(description="mine"))
    try:
        with pytest.raises(FlameError) as caught:
            Runner("by-hand", fail_if_exists=True, workers=1)
        assert caught.value.code is FlameErrorCode.ALREADY_EXISTS
        with Runner("by-hand", workers=1) as rr:
            assert rr.service(double)(1).get(PATIENCE_S) == 2
        application = get_application("by-hand")
        assert application is not None and application.description == "mine"
    finally:
        unregister_application("by-hand")


def test_an_application_in_use_cannot_be_unregistered():
    with Runner("in-use", workers=1):
        with pytest.raises(FlameError) as caught:
            unregister_application("in-use")
        assert caught.value.code is FlameErrorCode.INVALID_STATE
        assert "in-use" in registered()


# ---- steps that fail -------------------------------------------------------------------------------------------------


def break_packaging(project, monkeypatch, storage, tmp_path):
    """More files than the limit allows."""
    (project / "large.bin").write_bytes(os.urandom(200_000))
    storage[1].write_text(storage[1].read_text().replace("package: {", "package: {limit: 1000, "))


def break_uploading(project, monkeypatch, storage, tmp_path):
    """Remove the storage's directory between the look at it and the upload."""
    from flame_fast.application import lifecycle

    def pack(*args, **kwargs):
        storage[0].rmdir()
        return inner(*args, **kwargs)

    inner = lifecycle.pack
    monkeypatch.setattr(lifecycle, "pack", pack)


def break_registering(project, monkeypatch, storage, tmp_path):
    """Let the configuration name a template that is not there."""
    text = storage[1].read_text()
    storage[1].write_text(text + "    runner: {template: no-such-template}\n")


def break_enrolling(project, monkeypatch, storage, tmp_path):
    """Another process registers the name while the package is made."""
    from flame_fast.application import lifecycle

    def pack(*args, **kwargs):
        register_application("failing", ApplicationAttributes())
        return inner(*args, **kwargs)

    inner = lifecycle.pack
    monkeypatch.setattr(lifecycle, "pack", pack)


STEPS = {
    "packaging": (break_packaging, FlameErrorCode.INVALID_ARGUMENT),
    "uploading": (break_uploading, FlameErrorCode.INVALID_CONFIG),
    "registering": (break_registering, FlameErrorCode.NOT_FOUND),
    "registering, at the end": (break_enrolling, FlameErrorCode.ALREADY_EXISTS),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_is_named_and_those_before_it_are_undone(
    step, project, nothing_left, monkeypatch, storage, tmp_path
):
    fail, code = STEPS[step]
    fail(project, monkeypatch, storage, tmp_path)
    with pytest.raises(FlameError) as caught:
        Runner("failing", fail_if_exists=True, workers=2, context=FlameContext(storage[1]))
    assert caught.value.code is code, caught.value
    assert caught.value.message.startswith(step.partition(",")[0]), caught.value
    assert "'failing'" in caught.value.message
    assert children(os.getpid()) == []
    if step == "registering, at the end":
        unregister_application("failing")
    assert leavings(nothing_left) == []
    assert not storage[0].exists() or list(storage[0].iterdir()) == []


def test_an_interrupted_entry_is_undone(nothing_left, monkeypatch):
    from flame_fast.application import lifecycle

    def pack(*args, **kwargs):
        inner(*args, **kwargs)
        raise KeyboardInterrupt

    inner = lifecycle.pack
    monkeypatch.setattr(lifecycle, "pack", pack)
    with pytest.raises(KeyboardInterrupt):
        Runner("interrupted", workers=2)
    assert leavings(nothing_left) == []
    assert children(os.getpid()) == []


def test_a_deleted_package_is_no_obstacle_to_the_end(nothing_left):
    with Runner("deleted", workers=1) as rr:
        rr.service(double)(1).get(PATIENCE_S)
        (package,) = packages(nothing_left)
        package.unlink()
    assert leavings(nothing_left) == []


def test_a_data_directory_that_was_deleted_is_no_obstacle_to_the_end(tmp_path):
    """`rm -rf` of it while a Runner is open: close warns, and the next Runner works."""
    out = run_driver(
        """
        import shutil, warnings
        rr = Runner("deleted", workers=1)
        rr.service(double)(1).get()
        shutil.rmtree(os.environ["FLAME_FAST_HOME"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rr.close()
        assert "is still there" in str(caught[-1].message)
        with Runner("deleted", workers=1) as rr:
            print(rr.service(double)(4).get(20))
        """,
        tmp_path,
    )
    assert out == "8\n"


@pytest.mark.parametrize("context", ["flame.yaml", {}, 5])
def test_a_context_that_is_none_is_refused(project, context):
    with pytest.raises(FlameError, match="write FlameContext\\(path\\)") as caught:
        Runner("odd", context=context)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
