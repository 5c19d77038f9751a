"""Death at every step: a process is killed before each instruction after which the segment is another than before.

The others must go on: nothing hangs, every call ends in one way or the other and runs at most once, and once everything is
dropped every slot and every byte is there again. What is killed at is told in `scenarios`. All of it, at every step, under
FLAME_FAST_STORM=1.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import signal
import tempfile
import traceback

import pytest
import stepping
from scenarios import SCENARIOS
from scene import DEADLINE_S, TORN, Neighbour, Recoverer, Scene, begun

pytestmark = [pytest.mark.storm, pytest.mark.timeout(3600)]

LONG = os.environ.get("FLAME_FAST_STORM") == "1"
RECOVERING = "stopped, and another is recovered meanwhile"
KILLED, NOTICED_LATE, PAUSED = "killed", "killed, and others act before it is recovered", "stopped, and others act meanwhile"
MODES = [KILLED, NOTICED_LATE, PAUSED, RECOVERING]
#: Stops of one operation that are tried, by chance; by default in one mode of a few operations.
MOST_STOPS = int(os.environ.get("FLAME_FAST_STOPS", 10_000)) if LONG else 5
USUAL = [
    ("submits_a_block", KILLED),
    ("submits_with_inputs", KILLED),
    ("submits_with_a_failed_input", KILLED),
    ("puts_arrays", KILLED),
    ("puts_among_freed_slots", PAUSED),
    ("drops_arrays", KILLED),
    ("drops_a_waiting_tree", RECOVERING),
    ("fulfils", KILLED),
    ("fails_a_promise", KILLED),
    ("gives_back_by_a_number_that_came_round", KILLED),
    ("makes_an_instance", KILLED),
    ("finishes_with_a_block", NOTICED_LATE),
    ("finishes_with_dependencies_of_its_own", KILLED),
    ("fails_with_dependents", KILLED),
    ("claims_and_begins", KILLED),
    ("submits_with_limits", KILLED),
    ("cancels_with_dependents", KILLED),
    ("cancels_what_waits_for_the_unwanted", NOTICED_LATE),
    ("is_tried_again", KILLED),
]
CASES = [(name, warm, mode) for name in SCENARIOS for warm in (False, True) for mode in MODES]


class Run:
    """One scenario up to where its process stands at its first mark."""

    def __init__(self, scenario, warm, mode):
        self.scene = Scene()
        self.generator = scenario.generator(self.scene)
        life = next(self.generator)

        def traced():
            stepping.be_traced()
            life(warm)

        self.looks_itself = scenario.looks_itself
        self.neighbour = None if mode == KILLED else (Recoverer if mode == RECOVERING else Neighbour)(self.scene)
        self.mode = mode
        self.relative = self.scene.fork(traced)
        self.pid, self.fd = self.relative.pid, self.scene.runtime.fd
        stepping.await_mark(self.pid)

    def finish(self):
        """Where the process stands now, happens what the mode says; then looks at what the others have of it."""
        if self.mode in (PAUSED, RECOVERING):
            self.neighbour.act()
            assert stepping.run_to_mark(self.pid), "it did not come to its end"
            if self.looks_itself:
                assert stepping.run_to_mark(self.pid), "what it got is not what it shall be"
        self.relative.kill()
        if self.mode == NOTICED_LATE:
            assert self.relative.has_ended(DEADLINE_S)
            self.neighbour.act()
        self.scene.recover_process(self.relative)
        if self.neighbour is not None:
            self.neighbour.end()
        self.scene.work()
        assert next(self.generator, None) is None
        assert not begun[TORN], "a task got other arguments than it was given"
        self.scene.check_others_go_on()
        self.scene.check_everything_is_back()

    def close(self):
        self.generator.close()
        self.scene.close()


def try_every_stop(scenario, warm, mode, most):
    """At every stop, or `most` of them; yields (address, which stop, what was wrong, None before it was looked)."""
    run = Run(scenario, warm, KILLED)
    before = stepping.pages_in_use(run.fd)
    assert stepping.run_to_mark(run.pid), "the process did not come to its second mark"
    pages = stepping.pages_that_tell(before, stepping.pages_in_use(run.fd))
    yield from end_of(run, 0, "at its end")
    run = Run(scenario, warm, KILLED)
    after, making = stepping.find_stops(run.pid, run.fd, pages)
    stops = making if mode in (PAUSED, RECOVERING) else after
    yield from end_of(run, 0, "at its end, stepped")
    assert len(stops) >= 2
    for number in sorted(random.sample(range(len(stops)), min(most, len(stops)))):
        address, passes = stops[number]
        run = Run(scenario, warm, mode)
        if stepping.run_to(run.pid, address, passes) or mode not in (PAUSED, RECOVERING):
            yield from end_of(run, address, f"stop {number} of {len(stops)}")
        else:
            run.close()


def end_of(run, address, which):
    yield address, which, None
    try:
        run.finish()
    except Exception as error:
        yield address, which, f"{type(error).__name__}: {' '.join(str(error).split())}"
    finally:
        run.close()


def guarded(attempts):
    """Run a generator of (where, what was wrong) in a child, which may hang or crash; returns what was wrong."""
    with tempfile.TemporaryFile("w+") as notes, tempfile.TemporaryFile("w+") as stacks:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                gc.collect()
                gc.freeze()
                gc.disable()
                faulthandler.enable(stacks)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                faulthandler.register(signal.SIGALRM, stacks, chain=True)  # tells where it hangs, and ends it
                signal.alarm(DEADLINE_S)
                for note in attempts():
                    signal.alarm(DEADLINE_S)
                    notes.write(json.dumps(note) + "\n")
                    notes.flush()
                code = 0
            except BaseException:
                stacks.write(traceback.format_exc())
                stacks.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        notes.seek(0)
        stacks.seek(0)
        found, last = [], "before the first"
        for line in notes:
            address, which, wrong = json.loads(line)
            last = f"{which}, {stepping.describe(address)}" if address and (wrong or code) else which
            if wrong:
                found.append(f"{last}: {wrong}")
        if code:
            found.append(f"{last}: the others hang or crash (exit code {code})\n{stacks.read()}")
        return found


def case_id(case):
    name, warm, mode = case
    return f"{name}, {'again' if warm else 'the first time'}: {mode}"


@pytest.mark.skipif(not stepping.is_possible(), reason="this machine lets no process trace another, or is not x86-64")
@pytest.mark.parametrize("case", CASES if LONG else [(name, False, mode) for name, mode in USUAL], ids=case_id)
def test_a_death_at_any_step_costs_the_others_nothing(nothing_left, case):
    name, warm, mode = case
    found = guarded(lambda: try_every_stop(SCENARIOS[name], warm, mode, MOST_STOPS))
    assert not found, "\n".join(found)
