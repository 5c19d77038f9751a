"""Roles of a process at the segment: none has another's verbs."""

from __future__ import annotations

import pytest
from flame_fast.kernels.runtime import Client, Supervisor, Worker

from flame_fast import Runner

SERVE = {"serve", "serve_inline", "run_queued", "claim_entry", "mark_stateful", "install_array_allocator"}
SUPERVISE = {"recover_process", "start", "cancel_start", "retire", "processes", "adopt_supervision", "trim", "start_time"}
SUBMIT = {"put", "promise", "fulfil", "get_many", "wait_many", "selector", "add_service", "close_service"}


@pytest.mark.parametrize(
    ("role", "own", "others"),
    [
        (Client, SUBMIT, SERVE | SUPERVISE),
        (Worker, SUBMIT | SERVE, SUPERVISE),
        (Supervisor, SUPERVISE, SUBMIT | SERVE),
    ],
)
def test_a_role_has_its_own_verbs_and_no_others(role, own, others):
    assert own <= set(dir(role))
    assert not others & set(dir(role))


def test_a_driver_can_neither_serve_nor_recover(nothing_left):
    with Runner("driver", workers=1) as rr:
        for verb in sorted(SERVE | SUPERVISE):
            with pytest.raises(AttributeError, match=verb):
                getattr(rr._engine.runtime, verb)
