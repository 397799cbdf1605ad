from __future__ import annotations

import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.lifecycle import FailureCode
from app.domain.progress import Failed, Noted
from tests.trainer.conftest import Base, Recorder
from tests.trainer.test_tokenization import tokenized
from tests.trainer.tiny import make_pairs, run_trainer
from worker.ipc.order import EXIT_FAILED
from worker.reward_model import chat_template
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.tasks.prepare_data import prepare_data

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (LOOPS, "s of processor time"),
        ("{% set x = 'x' * 10**9 %}{{ x | length }}", "takes more than 512 MiB"),
        ("{% set c = messages[0].content %}{{ (c * 10**8) | length }}", "takes more than 512 MiB"),
        ("{{ 'x' * 10**7 }}", "makes 10000000 characters of it"),
    ],
    ids=["nested loops", "folded string", "string", "long text"],
)
def test_template_bomb_is_ended_at_once_and_named(
    template: str, words: str, llama: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "CPU_SECONDS", 0.5)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TrainerError) as failure:
        tokenized(llama, make_pairs(3), tmp_path, chat_template=template)
    assert failure.value.code is FailureCode.MODEL_UNSUPPORTED
    assert words in failure.value.detail
    assert "line 1 of the pairs" in failure.value.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600 << 10
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.parametrize("action", ["inspect", "train"])
def test_trainer_process_survives_a_bomb_and_says_so(
    action: str, llama: Base, tmp_path: Path
) -> None:
    order = llama.order(count=8, eval_count=0)
    assert order.plan
    tokens = order.plan.tokenization.model_copy(update={"chat_template": "{{ 'x' * 10**9 }}"})
    plan = order.plan.model_copy(update={"tokenization": tokens})
    bomb = order.model_copy(update={"action": action, "plan": plan})
    done = run_trainer(tmp_path / "work", bomb)
    assert done.status == EXIT_FAILED
    assert done.last(Failed).code is FailureCode.MODEL_UNSUPPORTED
    assert "takes more than 512 MiB for it, line 1" in done.last(Failed).detail


def test_template_that_asks_for_today_gives_the_same_text_every_day(
    llama: Base, recorder: Recorder
) -> None:
    assert llama.facts.chat_template
    today = "{{ strftime_now('%Y-%m-%d') }}"
    facts = llama.facts.model_copy(update={"chat_template": today + llama.facts.chat_template})
    order = replace(llama, facts=facts).order(count=1, eval_count=0)
    assert order.plan
    tokenizer = PairTokenizer(llama.directory, order.plan.tokenization, "conversational")
    prepare_data(order, order.plan, None, tokenizer, recorder)  # type: ignore[arg-type]
    assert all(text.startswith("2024-07-26") for text in tokenizer.render(make_pairs(1)[0]))
    (note,) = recorder.of(Noted)
    assert (note.code, note.is_warning) == ("template_date_fixed", True)
    assert "always writes 2024-07-26" in note.message


def test_longest_line_of_a_dataset_is_rendered(llama: Base, tmp_path: Path) -> None:
    rows = make_pairs(1)
    turns = [{"role": role, "content": "word " * 100} for role in ("user", "assistant")]
    rows[0]["prompt"] = [*turns * 1000, *rows[0]["prompt"]]
    found = tokenized(llama, rows, tmp_path, max_length=2**20)
    assert found.longest > 200_000


def test_limit_of_the_process_is_not_raised(llama: Base, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    low = 1 << 44
    resource.setrlimit(resource.RLIMIT_DATA, (low, hard))
    try:
        tokenized(llama, make_pairs(1), tmp_path)
        assert resource.getrlimit(resource.RLIMIT_DATA) == (low, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
