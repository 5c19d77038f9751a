"""What tasks log reaches the driver's loggers as records, in its place among what they print, before the call's value."""

from __future__ import annotations

import logging
import os
import random
import sys
import threading

import pytest
from gates import PATIENCE_S, Gate, hold, new_module, run_script, wait_until

from flame_fast import Runner, WorkerDiedError
from flame_fast.engine.log_records import HEAD, RecordReader, mark_of

LOGGER = "tasks.of.the.test"


def log(level: int = logging.WARNING, text: str = "from %s", *args: object, name: str = LOGGER) -> int:
    logging.getLogger(name).log(level, text, *(args or ("a task",) * ("%s" in text)))
    return os.getpid()


def test_a_record_is_the_driver_s_before_the_value_is(caplog):
    with Runner("logs", workers=2) as rr:
        for number in range(20):
            caplog.clear()
            pid = rr.service(log)(logging.ERROR, "number %d", number).get(PATIENCE_S)
            (record,) = caplog.records
            assert (record.name, record.levelno, record.msg, record.args) == (LOGGER, logging.ERROR, "number %d", (number,))
            assert (record.process, record.funcName, record.pathname) == (pid, "log", __file__)


def test_functions_of_the_module_are_the_root_logger_s(caplog):
    def log_by_module() -> None:
        logging.error("by the module")

    with Runner("logs", workers=1) as rr:
        rr.service(log_by_module)().get(PATIENCE_S)
        rr.service(log)().get(PATIENCE_S)
    assert [(one.name, one.getMessage()) for one in caplog.records] == [("root", "by the module"), (LOGGER, "from a task")]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_a_worker_s_root_logger_has_the_driver_s_level(level, caplog):
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]
    with caplog.at_level(level), Runner("logs", workers=1) as rr:
        enabled = rr.service(lambda: [logging.getLogger(LOGGER).isEnabledFor(one) for one in levels])().get(PATIENCE_S)
        rr.wait([rr.service(log)(one) for one in levels], PATIENCE_S)
    assert enabled == [one >= level for one in levels]
    assert [one.levelno for one in caplog.records if one.name == LOGGER] == [one for one in levels if one >= level]


def test_levels_of_single_loggers_are_those_at_the_service_s_making(caplog):
    with Runner("logs", workers=1) as rr:
        rr.service(log)(logging.INFO, "before").get(PATIENCE_S)
        with caplog.at_level(logging.DEBUG, LOGGER):
            rr.service(log)(logging.DEBUG, "meanwhile").get(PATIENCE_S)
            rr.service(log)(logging.INFO, "of another", name="another").get(PATIENCE_S)
        rr.service(log)(logging.INFO, "after").get(PATIENCE_S)
        rr.service(log)(logging.WARNING, "at last").get(PATIENCE_S)
    assert [one.msg for one in caplog.records if one.name != "flame_fast"] == ["meanwhile", "at last"]


def test_the_driver_s_level_decides_when_the_record_comes(caplog):
    with caplog.at_level(logging.DEBUG), Runner("logs", workers=1) as rr:
        service = rr.service(log)
        service(logging.INFO, "heard").get(PATIENCE_S)
        logging.getLogger(LOGGER).setLevel(logging.ERROR)
        try:
            service(logging.INFO, "unheard").get(PATIENCE_S)
        finally:
            logging.getLogger(LOGGER).setLevel(logging.NOTSET)
    assert [one.msg for one in caplog.records if one.name == LOGGER] == ["heard"]


def test_a_level_that_a_task_has_set_stays(caplog):
    def set_level() -> None:
        logging.getLogger(LOGGER).setLevel(logging.ERROR)

    with Runner("logs", workers=1) as rr:
        rr.service(set_level)().get(PATIENCE_S)
        with caplog.at_level(logging.INFO, LOGGER):
            rr.service(log)(logging.INFO, "unheard").get(PATIENCE_S)
    assert [one.msg for one in caplog.records if one.name == LOGGER] == []


class Local:
    """Of a class that only workers can make."""

    def __repr__(self) -> str:
        return "<local>"


def log_values() -> None:
    logger = logging.getLogger(LOGGER)
    logger.warning("of %s", Local())
    logger.warning("with", extra={"plain": {"a": [1, (2.5, None)]}, "local": Local()})
    logger.warning({"no": "text"})
    logger.warning("%(named)s", {"named": "by name"})
    try:
        raise LookupError("inside")
    except LookupError:
        logger.exception("caught")
    logger.warning("stack", stack_info=True)


def test_values_of_a_record_arrive_as_such_or_as_text(caplog):
    with Runner("logs", workers=1) as rr:
        rr.service(log_values)().get(PATIENCE_S)
    formatted, extra, no_text, named, caught, stack = caplog.records
    assert formatted.getMessage() == "of <local>"
    assert (extra.plain, extra.local) == ({"a": [1, (2.5, None)]}, "<local>")
    assert no_text.getMessage() == "{'no': 'text'}"
    assert (named.getMessage(), named.args) == ("by name", {"named": "by name"})
    assert caught.exc_info is None and "LookupError: inside" in caught.exc_text and __file__ in caught.exc_text
    assert "LookupError: inside" in logging.Formatter().format(caught)
    assert "log_values" in stack.stack_info


@pytest.mark.parametrize("value", [1, Local()])
def test_a_record_that_cannot_be_formatted_is_told_of_as_ever(value, capsys, caplog):
    with Runner("logs", workers=1) as rr:
        rr.service(log)(logging.WARNING, "%d %s", value).get(PATIENCE_S)
    assert caplog.records == []
    err = capsys.readouterr().err
    assert "--- Logging error ---" in err and f'"{__file__}", line' in err


def test_records_keep_their_place_among_what_is_printed_to_standard_error(project):
    out = run_script(
        project,
        """
        import logging, sys
        from flame_fast import Runner

        def task():
            for number in range(100):
                print("printed", number, file=sys.stderr)
                logging.warning("logged %d", number)

        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        sys.stderr = sys.stdout
        with Runner("order", workers=1, package=False) as rr:
            rr.service(task)().get()
        """,
    )
    assert out.splitlines() == [f"{how} {number}" for number in range(100) for how in ("printed", "logged")]


def test_a_long_record_arrives_whole_beside_what_others_write(caplog):
    def write(number: int) -> None:
        text = str(number) * 300_000
        thread = threading.Thread(target=lambda: [os.write(2, b"raw\n") for _ in range(300)])
        thread.start()
        logging.getLogger(LOGGER).warning(text)
        thread.join()

    with Runner("logs", workers=2) as rr:
        rr.wait([rr.service(write)(number) for number in range(4)], PATIENCE_S)
    assert sorted(one.msg for one in caplog.records) == [str(number) * 300_000 for number in range(4)]


def test_records_of_threads_and_forks_of_a_task(caplog):
    def log_all() -> None:
        threads = [threading.Thread(target=log, args=(logging.WARNING, f"thread {number}")) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pid = os.fork()
        if pid == 0:
            log(logging.WARNING, "fork")
            os._exit(0)
        os.waitpid(pid, 0)

    with Runner("logs", workers=1) as rr:
        rr.service(log_all)().get(PATIENCE_S)
        assert sorted(one.msg for one in caplog.records) == ["fork", *(f"thread {number}" for number in range(4))]


def test_a_file_that_a_task_puts_in_the_place_of_standard_error_gets_no_record(caplog, tmp_path):
    def redirect(path: str) -> None:
        logging.getLogger(LOGGER).warning("before")
        kept, file = os.dup(2), os.open(path, os.O_CREAT | os.O_WRONLY)
        os.dup2(file, 2)
        os.write(2, b"raw\n")
        logging.getLogger(LOGGER).warning("meanwhile")
        os.dup2(kept, 2)
        os.close(kept)
        os.close(file)

    with Runner("logs", workers=1) as rr:
        rr.service(redirect)(str(tmp_path / "file")).get(PATIENCE_S)
    assert [one.msg for one in caplog.records] == ["before", "meanwhile"]
    assert (tmp_path / "file").read_text() == "raw\n"


def test_a_dead_worker_s_records_are_among_its_last_words(caplog):
    def log_and_die() -> None:
        logging.getLogger(LOGGER).warning("going")
        os.kill(os.getpid(), 9)

    with Runner("logs", workers=1) as rr:
        error = rr.service(log_and_die)().exception(PATIENCE_S)
        assert isinstance(error, WorkerDiedError)
        assert error.output == [f"WARNING:{LOGGER}:going"]
        assert [one.msg for one in caplog.records if one.name == LOGGER] == ["going"]


def test_a_captured_call_has_its_records_in_its_output(caplog, capsys):
    with Runner("logs", workers=1) as rr:
        future = rr.service(log)(logging.WARNING, "shown")
        future.wait(PATIENCE_S)
        captured = rr.service(log).options(capture=True)(logging.WARNING, "captured")
        assert captured.output(PATIENCE_S) == "captured\n"
    assert [one.msg for one in caplog.records] == ["shown"]
    assert capsys.readouterr().err == ""


# ---- handlers of the task's own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "configure",
    [
        "logging.basicConfig(format='own %(message)s')",
        "logging.basicConfig(format='own %(message)s', force=True)",
        "logging.getLogger().addHandler(own)",
        "log.addHandler(own)",
        "import logging.config; logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False,"
        " 'formatters': {'f': {'format': 'own %(message)s'}},"
        " 'handlers': {'h': {'class': 'logging.StreamHandler', 'formatter': 'f'}}, 'root': {'handlers': ['h']}})",
    ],
)
def test_a_record_that_the_task_s_own_handler_takes_is_not_shown_twice(configure, project):
    (project / "own.py").write_text(
        "import logging\n"
        "log = logging.getLogger('own')\n"
        "own = logging.StreamHandler()\n"
        "own.setFormatter(logging.Formatter('own %(message)s'))\n"
        f"{configure}\n"
        "def task(number):\n"
        "    log.warning('record %d', number)\n"
    )
    done = run_script(
        project,
        """
        import logging
        from flame_fast import Runner

        def through(number):
            from own import task
            task(number)

        logging.basicConfig(format="driver %(message)s")
        with Runner("own", workers=1) as rr:
            for number in range(3):
                rr.service(through)(number).get()
        """,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "own record 0\nown record 1\nown record 2\n")


def test_a_library_s_null_handler_takes_no_record(project, monkeypatch, caplog):
    module = new_module(
        monkeypatch,
        project,
        "import logging\nlog = logging.getLogger(__name__)\nlog.addHandler(logging.NullHandler())\n"
        "def task():\n    log.warning('heard')\n",
    )
    with Runner("null", workers=1) as rr:
        rr.service(module.task)().get(PATIENCE_S)
    (record,) = caplog.records
    assert (record.msg, record.pathname) == ("heard", module.__file__)


def test_a_driver_without_logging_shows_warnings_and_errors(project):
    done = run_script(
        project,
        """
        import sys
        from flame_fast import Runner

        def log():
            import logging
            logging.info("unheard")
            logging.warning("heard")

        with Runner("late", workers=1) as rr:
            print("logging" in sys.modules, end=" ")
            rr.service(log)().get()
            print("logging" in sys.modules)
        """,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False True\n", "heard\n")


def test_a_worker_does_not_load_logging_by_itself(project):
    out = run_script(
        project,
        """
        import logging
        from flame_fast import Runner

        def is_loaded():
            import sys
            return "logging" in sys.modules

        logging.basicConfig(level=logging.DEBUG)
        logging.getLogger().handlers.clear()
        with Runner("without", workers=1) as rr:
            print(rr.service(is_loaded)().get())
        """,
    )
    assert out == "False\n"


# ---- the package's own log -----------------------------------------------------------------------------------------------


def own(caplog, level: int) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "flame_fast" and one.levelno == level]


def test_starts_and_deaths_of_processes_are_logged(caplog):
    with caplog.at_level(logging.DEBUG, "flame_fast"), Runner("told", workers=1) as rr:
        pid = rr.service(os.getpid)().get(PATIENCE_S)
        error = rr.service(os.kill)(pid, 9).exception(PATIENCE_S)
        assert own(caplog, logging.WARNING) == [f"runner 'told': process {pid}: {error.message}"]
        other = rr.service(os.getpid)().get(PATIENCE_S)
        assert [f"runner 'told': worker process {one} has started" in own(caplog, logging.DEBUG) for one in (pid, other)]


def test_an_end_by_force_is_no_warning(caplog):
    with caplog.at_level(logging.DEBUG, "flame_fast"), Runner("told", workers=1) as rr, Gate() as gate:
        future = rr.service(hold)(gate)
        gate.entered()
        assert future.cancel(force=True)
        assert rr.service(len)("four").get(PATIENCE_S) == 4
    assert own(caplog, logging.WARNING) == []
    assert any("ended by force" in line for line in own(caplog, logging.DEBUG))


def test_a_supervisor_s_restart_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "flame_fast"), Runner("told", workers=1) as rr:
        supervisor = rr.service(os.getppid)().get(PATIENCE_S)
        os.kill(supervisor, 9)
        wait_until(lambda: own(caplog, logging.WARNING), "the warning")
        assert rr.service(os.getppid)().get(PATIENCE_S) != supervisor
        message = f"runner 'told': the process {supervisor} that supervises the workers has ended by signal 9"
        assert own(caplog, logging.WARNING)[0] == message


def test_growth_of_shared_memory_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "flame_fast"), Runner("told", workers=1) as rr:
        ref = rr.put_object(bytes(100 << 20))
        rr.service(len)(ref).get(PATIENCE_S)
        del ref
        wait_until(lambda: any("bytes of shared memory" in line for line in own(caplog, logging.DEBUG)), "the growth")


def test_a_program_that_has_configured_no_logging_hears_nothing_of_it(project):
    done = run_script(
        project,
        """
        import logging, os
        from flame_fast import Runner

        with Runner("mute", workers=1) as rr:
            rr.service(os._exit)(3).exception()
            print(logging.getLogger("flame_fast").isEnabledFor(logging.WARNING))
        """,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


# ---- frames --------------------------------------------------------------------------------------------------------------


def test_records_are_found_wherever_a_read_ends():
    mark = mark_of(7)

    def frame(number: int, left: int, data: bytes) -> bytes:
        return mark + HEAD.pack(1, number, left, len(data)) + data

    pieces = [
        b"text\n", frame(1, 0, b"one"), b"a\0b", frame(2, 1, b"two"), b"\0", frame(3, 0, b"three"), b"between",
        frame(2, 0, b" halves"), mark[:5], b"\n", mark[:-1], b"end",
    ]  # fmt: skip
    data = b"".join(pieces)
    chance = random.Random(1)
    for _ in range(300):
        reader, text, records, at = RecordReader(mark), b"", [], 0
        while at < len(data):
            size = chance.choice((1, 2, 7, 30, 200))
            for before, record in reader.split(data[at : at + size]):
                text += before
                if record:
                    records.append((record, text))
            at += size
        text += reader.held
        assert text == b"text\na\0b\0between" + mark[:5] + b"\n" + mark[:-1] + b"end"
        assert records == [
            (b"one", b"text\n"), (b"three", b"text\na\0b\0"), (b"two halves", b"text\na\0b\0between"),
        ]  # fmt: skip


def test_what_is_left_of_a_frame_is_shown_when_the_worker_has_died(capfd):
    """Native code may write such bytes, too."""
    with Runner("begun", workers=1) as rr:
        rr.service(lambda: os.write(2, b"\0flame_fast") and None)().get(PATIENCE_S)
    assert capfd.readouterr().err == "\0flame_fast\n"
    assert "flame_fast" in sys.modules
