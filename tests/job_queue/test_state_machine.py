"""Random programs against the repository, and against the repository with each guard removed."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.job_queue import claim, transitions
from tests.job_queue.machine import Clock, make_machine, virtual_engine

#: 40 steps each; a night may say PLAUDIT_TEST_PROGRAMS=20000.
PROGRAMS, STEPS = int(os.environ.get("PLAUDIT_TEST_PROGRAMS", "150")), 40
#: A mutant is left at the first program that notices it, mostly within the first ten. Which ones
#: are tried depends on what else is imported (Hypothesis draws on it), so the bound is generous.
MUTANT_PROGRAMS = 1000
MODULES = (transitions, claim)
#: What one process on one host cannot tell apart; held by the threads and the hosts of
#: test_repository.py and by the chaos runs.
HELD_ELSEWHERE = {
    "claim_next_job: Job.status == JobStatus.QUEUED": "the picked row stays locked until then",
    "sweep: Job.id.in_(ids)": "only sets how many are taken at once",
    "sweep: Job.status == RUNNING": "only a running row has a lease to run out, or an owner",
    "_held: Job.status == RUNNING": "a row that is not running has no owner (check constraint)",
    "claim_next_job: candidate.desired == Desired.RUN": "such a job has left the queue",
}
HOSTS = ("Worker.", "candidate.avoid_host")


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


def run(
    modules: Sequence[ModuleType], engine: Engine, clock: Clock, programs: int, **more: object
) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        make_machine(*modules, engine, clock),
        settings=settings(
            max_examples=programs,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            **more,  # type: ignore[arg-type]
        ),
    )


def test_repository_does_what_its_model_does(virtual: Engine, clock: Clock) -> None:
    run(MODULES, virtual, clock, PROGRAMS)


class _Guards(ast.NodeTransformer):
    """Lists the terms of every WHERE, and removes one of them."""

    def __init__(self, remove: str | None = None) -> None:
        self.found: list[str] = []
        self._remove, self._function = remove, ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._function = node.name
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name == "where":
            node.args = self._without(node.args)
        return node

    def visit_Return(self, node: ast.Return) -> ast.Return:
        self.generic_visit(node)
        if self._function == "_held" and isinstance(node.value, ast.Tuple):
            node.value.elts = self._without(node.value.elts)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and node.target.id == "lost":
            assert isinstance(node.value, ast.List)
            node.value.elts = self._without(node.value.elts)
        return node

    def _without(self, terms: list[ast.expr]) -> list[ast.expr]:
        kept = []
        for term in terms:
            name = f"{self._function}: {ast.unparse(term)}"
            if not isinstance(term, ast.Starred):
                self.found.append(name)
            if name != self._remove:
                kept.append(term)
        return kept


def guards() -> list[str]:
    found = _Guards()
    for module in MODULES:
        found.visit(_tree(module))
    return [
        name
        for name in dict.fromkeys(found.found)
        if name not in HELD_ELSEWHERE and not any(host in name for host in HOSTS)
    ]


def without(guard: str) -> list[ModuleType]:
    """The modules, the one that has this term without it."""
    return [_mutant(module, guard) for module in MODULES]


def _mutant(module: ModuleType, guard: str) -> ModuleType:
    remover = _Guards(guard)
    tree = ast.fix_missing_locations(remover.visit(_tree(module)))
    if guard not in remover.found:
        return module
    # Dataclasses look their module up by name.
    changed = sys.modules["mutant"] = ModuleType("mutant")
    exec(compile(tree, str(module.__file__), "exec"), changed.__dict__)
    return changed


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text())


@pytest.mark.parametrize("guard", guards())
def test_repository_without_this_guard_is_caught(guard: str, virtual: Engine, clock: Clock) -> None:
    with pytest.raises((AssertionError, SQLAlchemyError)):  # what the machine or a check noticed
        run(
            without(guard), virtual, clock, MUTANT_PROGRAMS,
            derandomize=True, phases=[Phase.generate], print_blob=False,
            report_multiple_bugs=False,
        )  # fmt: skip
