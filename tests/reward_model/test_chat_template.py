"""Chat templates run within limits of time and memory."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import make_pairs
from tests.model_factories.tokenized import tokenize_rows
from tests.model_factories.trainer_process import run_trainer
from worker.ipc.order import EXIT_FAILED
from worker.reward_model import chat_template
from worker.reward_model.errors import TrainerError

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (LOOPS, "s of CPU time"),
        ("{% set x = 'x' * 10**9 %}{{ x | length }}", "needs more than 512 MiB"),
        ("{% set c = messages[0].content %}{{ (c * 10**8) | length }}", "needs more than 512 MiB"),
        ("{{ 'x' * 10**7 }}", "renders 10000000 characters"),
    ],
    ids=["nested loops", "folded string", "string", "long text"],
)
def test_template_bomb_is_stopped_and_named(
    template: str, reason: str, llama: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "CPU_SECONDS", 0.5)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TrainerError) as failure:
        tokenize_rows(llama, make_pairs(3), tmp_path, chat_template=template)
    assert failure.value.code is FailureCode.MODEL_UNSUPPORTED
    assert reason in failure.value.detail
    assert "for the pair in line 1" in failure.value.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600 << 10
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.parametrize("action", ["inspect", "train"])
def test_trainer_process_survives_a_bomb(action: str, llama: TinyBase, tmp_path: Path) -> None:
    order = llama.order(count=8, eval_count=0)
    assert order.plan
    tokens = order.plan.tokenization.model_copy(update={"chat_template": "{{ 'x' * 10**9 }}"})
    plan = order.plan.model_copy(update={"tokenization": tokens})
    bomb = order.model_copy(update={"action": action, "plan": plan})
    done = run_trainer(tmp_path / "work", bomb)
    assert done.status == EXIT_FAILED
    assert done.last(Failed).code is FailureCode.MODEL_UNSUPPORTED
    assert "needs more than 512 MiB of memory for the pair in line 1" in done.last(Failed).detail


def test_longest_allowed_line_of_a_dataset_is_rendered(llama: TinyBase, tmp_path: Path) -> None:
    rows = make_pairs(1)
    turns = [{"role": role, "content": "word " * 100} for role in ("user", "assistant")]
    rows[0]["prompt"] = [*turns * 1000, *rows[0]["prompt"]]
    found = tokenize_rows(llama, rows, tmp_path, max_length=2**20)
    assert found.longest > 200_000


def test_lower_limit_of_the_process_is_kept(llama: TinyBase, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    low = 1 << 44
    resource.setrlimit(resource.RLIMIT_DATA, (low, hard))
    try:
        tokenize_rows(llama, make_pairs(1), tmp_path)
        assert resource.getrlimit(resource.RLIMIT_DATA) == (low, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
