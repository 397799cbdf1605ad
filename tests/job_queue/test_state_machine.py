"""Random programs against the job statements, and against each statement with one guard removed."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import ColumnElement, Delete, Engine, Select, Update, delete, event, true
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.sql import visitors

from app.job_queue import guards
from app.models import Job, Worker
from tests.job_queue import test_claim
from tests.job_queue.machine import Clock, make_machine, virtual_engine

#: Programs of 40 steps each; PLAUDIT_TEST_PROGRAMS=20000 makes a long run.
PROGRAMS, STEPS = int(os.environ.get("PLAUDIT_TEST_PROGRAMS", "150")), 40
#: A mutant fails at the first program that detects it, mostly within the first ten. Hypothesis
#: draws other programs when other modules are imported, so the bound is generous.
MUTANT_PROGRAMS = 1000
Guard = tuple[str, str]

#: The guards of each statement: the name of the function that calls them, and theirs.
GUARDS: dict[str, list[str]] = {
    "claim_next_job": ["is_best_candidate", "is_queued"],
    "_best_candidate": [
        "is_queued",
        "is_wanted",
        "is_in_queue",
        "is_due",
        "may_run_on",
        "can_run_on_device",
        "is_within_quota",
        "has_another_model",
    ],
    "_running_in": ["is_running", "is_in_queue"],
    "_tenants_at_quota": ["is_running", "counts_against_quota"],
    "_other_host": ["serves_queue", "is_on_another_host", "is_ready", "was_seen_recently"],
    "is_held": ["is_job", "is_current_attempt", "is_leased_to", "is_running"],
    "sweep": ["is_running", "is_lease_unchanged", "is_lease_of_slot", "is_picked"],
    "set_desired_state": [
        "is_job",
        "belongs_to",
        "is_live",
        "is_not_being_cancelled",
        "would_change",
    ],
    "delete_job": ["is_job", "belongs_to", "is_finished"],
}
ALL_GUARDS: list[Guard] = [(name, guard) for name in GUARDS for guard in GUARDS[name]]
#: Guards whose removal one process cannot detect, each with the reason.
HELD_ELSEWHERE: dict[Guard, str] = {
    ("_best_candidate", "is_wanted"): "a job that is not wanted has left the queue",
    ("claim_next_job", "is_queued"): "the picked row stays locked until then",
    ("sweep", "is_picked"): "it only limits how many jobs one sweep takes",
    ("sweep", "is_running"): "only a running job has a lease (check constraint)",
    ("is_held", "is_running"): "only a running job has a lease (check constraint)",
}
no_other_host = test_claim.test_avoided_host_claims_the_job_when_no_other_can
#: The machine has one host without a GPU, and no job needs one: other tests cover these guards.
HOST_TESTS: dict[Guard, Callable[[Engine], None]] = {
    ("_best_candidate", "may_run_on"): (
        test_claim.test_avoided_host_leaves_the_job_to_another_host
    ),
    ("_best_candidate", "can_run_on_device"): (
        test_claim.test_job_that_needs_a_gpu_waits_for_a_slot_with_one
    ),
    ("_other_host", "serves_queue"): lambda engine: no_other_host(engine, {"queue": "another"}),
    ("_other_host", "is_on_another_host"): lambda engine: no_other_host(engine, {}),
    ("_other_host", "is_ready"): lambda engine: no_other_host(engine, {"state": "draining"}),
    ("_other_host", "was_seen_recently"): lambda engine: no_other_host(engine, {"seen_at": 1000}),
}
MACHINE_GUARDS = [guard for guard in ALL_GUARDS if guard not in HELD_ELSEWHERE | HOST_TESTS]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def virtual(sqlite_template: Path, tmp_path: Path, clock: Clock) -> Iterator[Engine]:
    path = tmp_path / "virtual.db"
    path.write_bytes(sqlite_template.read_bytes())
    engine = virtual_engine(f"sqlite:///{path}", clock)
    yield engine
    engine.dispose()


def run_programs(engine: Engine, clock: Clock, programs: int, **more: Any) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        make_machine(engine, clock),
        settings=settings(
            max_examples=programs,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            **more,
        ),
    )


def test_statements_match_the_model(virtual: Engine, clock: Clock) -> None:
    run_programs(virtual, clock, PROGRAMS)


def replace_guards(
    monkeypatch: pytest.MonkeyPatch, replacement: Callable[[Guard, ColumnElement[bool]], Any]
) -> None:
    """Pass every condition through ``replacement``, with the statement that asked for it."""
    for name, guard in inspect.getmembers(guards, inspect.isfunction):
        if guard.__module__ != guards.__name__:
            continue

        def replaced(*arguments: Any, _name: str = name, _guard: Any = guard, **more: Any) -> Any:
            statement = sys._getframe(1).f_code.co_name
            return replacement((statement, _name), _guard(*arguments, **more))

        monkeypatch.setattr(guards, name, replaced)


def test_statements_have_these_guards_and_no_other_conditions(
    virtual: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: set[Guard] = set()
    conditions: dict[int, ColumnElement[bool]] = {}  # keeps them alive, so that ids stay unique
    unnamed: set[str] = set()

    def record(guard: Guard, condition: ColumnElement[bool]) -> ColumnElement[bool]:
        found.add(guard)
        conditions[id(condition)] = condition
        return condition

    def check(state: ORMExecuteState) -> None:
        if not isinstance(state.statement, Update | Delete):
            return
        for part in visitors.iterate(state.statement):
            if isinstance(part, Select | Update | Delete):
                terms = part._where_criteria
                unnamed.update(str(term) for term in terms if id(term) not in conditions)

    replace_guards(monkeypatch, record)
    event.listen(Session, "do_orm_execute", check)
    try:
        run_programs(virtual, clock, 20, derandomize=True, phases=[Phase.generate])
    finally:
        event.remove(Session, "do_orm_execute", check)
    assert sorted(found) == sorted(ALL_GUARDS)
    assert unnamed == set()


@pytest.mark.parametrize("guard", MACHINE_GUARDS, ids="-".join)
def test_statement_without_this_guard_is_noticed(
    guard: Guard, virtual: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_guards(monkeypatch, lambda found, real: true() if found == guard else real)
    # Detected by the model, a database constraint or the statement itself.
    with pytest.raises((AssertionError, SQLAlchemyError, ValueError)):
        run_programs(
            virtual, clock, MUTANT_PROGRAMS,
            derandomize=True, phases=[Phase.generate], print_blob=False,
            report_multiple_bugs=False,
        )  # fmt: skip


@pytest.mark.parametrize("guard", HOST_TESTS, ids="-".join)
def test_claim_without_this_guard_chooses_the_wrong_host(
    guard: Guard, virtual: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    HOST_TESTS[guard](virtual)
    with virtual.begin() as connection:
        connection.execute(delete(Job))
        connection.execute(delete(Worker))
    replace_guards(monkeypatch, lambda found, real: true() if found == guard else real)
    with pytest.raises(AssertionError):
        HOST_TESTS[guard](virtual)


def test_every_guard_is_removed_once_or_has_a_reason() -> None:
    assert len(MACHINE_GUARDS) == 23
    assert set(ALL_GUARDS) == {*MACHINE_GUARDS, *HOST_TESTS, *HELD_ELSEWHERE}
