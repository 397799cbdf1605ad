"""The example pairs: reproducible, well formed, without leakage, no signal in their length."""

import json
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.domain.spec import RewardJobSpec

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = {"training": "preferences.jsonl", "heldout": "heldout.jsonl"}
both_files = pytest.mark.parametrize("half", FILES)


@both_files
def test_generating_again_gives_the_committed_bytes(half: str) -> None:
    assert _generator().render(half).encode() == (EXAMPLES / FILES[half]).read_bytes()


def test_the_files_are_large_enough_to_train_and_to_judge() -> None:
    assert 400 <= len(_pairs("training")) <= 800
    assert len(_pairs("heldout")) >= 150


@both_files
def test_every_pair_is_a_conversation_with_two_replies(half: str) -> None:
    for pair in _pairs(half):
        assert set(pair) == {"prompt", "chosen", "rejected"}
        for message in [*pair["prompt"], *pair["chosen"], *pair["rejected"]]:
            assert set(message) == {"role", "content"}
            assert message["content"].strip() == message["content"] != ""
        roles = [message["role"] for message in pair["prompt"]]
        assert roles in (["user"], ["user", "assistant", "user"])
        assert [m["role"] for m in pair["chosen"]] == ["assistant"]
        assert [m["role"] for m in pair["rejected"]] == ["assistant"]


@both_files
def test_no_placeholder_is_left_unfilled(half: str) -> None:
    assert not any(mark in (EXAMPLES / FILES[half]).read_text() for mark in ("{ask}", "{area}"))


@both_files
@pytest.mark.parametrize("length", [len, lambda text: len(text.split())], ids=["letters", "words"])
def test_preferring_the_longer_reply_is_a_coin_toss(half: str, length: Any) -> None:
    pairs = _pairs(half)
    longer = sum(length(_reply(p, "chosen")) > length(_reply(p, "rejected")) for p in pairs)
    equal = sum(length(_reply(p, "chosen")) == length(_reply(p, "rejected")) for p in pairs)
    assert 0.45 <= (longer + equal / 2) / len(pairs) <= 0.55


def test_the_files_share_no_prompt_no_topic_and_no_phrase() -> None:
    assert not _prompts("training") & _prompts("heldout")
    generator = _generator()
    training, heldout = (
        list(generator.read_topics(EXAMPLES / "source" / f"{half}_topics.txt")) for half in FILES
    )
    for field in ("area", "ask", "situation", "steps", "reason", "bad_advice"):
        assert not {getattr(t, field) for t in training} & {getattr(t, field) for t in heldout}
    phrases = tomllib.loads((EXAMPLES / "source" / "phrases.toml").read_text())
    for kind in phrases["training"]:
        assert not set(phrases["training"][kind]) & set(phrases["heldout"][kind])
    replies = [
        {_reply(p, side) for p in _pairs(half) for side in ("chosen", "rejected")} for half in FILES
    ]
    assert not replies[0] & replies[1]


@both_files
def test_no_pair_is_doubled_or_contradicts_another(half: str) -> None:
    pairs = _pairs(half)
    seen = {(_question(p), _reply(p, "chosen"), _reply(p, "rejected")) for p in pairs}
    assert len(seen) == len(pairs)
    assert not any((prompt, rejected, chosen) in seen for prompt, chosen, rejected in seen)
    liked = {(_question(p), _reply(p, "chosen")) for p in pairs}
    assert not liked & {(_question(p), _reply(p, "rejected")) for p in pairs}


def test_the_demo_spec_lacks_only_its_datasets() -> None:
    spec = json.loads((EXAMPLES / "demo.json").read_text())
    assert not {"train_dataset", "eval_dataset"} & set(spec)
    datasets = {"train_dataset": f"ds_{1:032x}", "eval_dataset": f"ds_{2:032x}"}
    assert RewardJobSpec.model_validate(spec | datasets).base_model == "all-minilm-l6-v2"


def _generator() -> ModuleType:
    spec = spec_from_file_location("examples_generate", EXAMPLES / "generate.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    # dataclasses look their module up by name while the class body runs.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def _pairs(half: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLES / FILES[half]).read_text().splitlines()]


def _prompts(half: str) -> set[str]:
    return {_question(pair) for pair in _pairs(half)}


def _question(pair: dict[str, Any]) -> str:
    return json.dumps(pair["prompt"])


def _reply(pair: dict[str, Any], side: str) -> str:
    text: str = pair[side][0]["content"]
    return text
