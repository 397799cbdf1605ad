"""The example pairs are reproducible, well formed and free of leakage and length bias."""

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
PHRASES = tomllib.loads((EXAMPLES / "source" / "phrases.toml").read_text())
both_files = pytest.mark.parametrize("half", FILES)


@both_files
def test_generating_again_gives_the_committed_bytes(half: str) -> None:
    assert _generator().render(half).encode() == (EXAMPLES / FILES[half]).read_bytes()


def test_files_are_large_enough_to_train_and_to_evaluate() -> None:
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
def test_no_placeholder_is_left(half: str) -> None:
    assert not any(mark in (EXAMPLES / FILES[half]).read_text() for mark in ("{ask}", "{area}"))


@both_files
@pytest.mark.parametrize(
    "length", [len, lambda text: len(text.split())], ids=["characters", "words"]
)
def test_longer_reply_is_preferred_in_half_of_the_pairs(half: str, length: Any) -> None:
    pairs = _pairs(half)
    longer = sum(length(_reply(p, "chosen")) > length(_reply(p, "rejected")) for p in pairs)
    equal = sum(length(_reply(p, "chosen")) == length(_reply(p, "rejected")) for p in pairs)
    assert 0.45 <= (longer + equal / 2) / len(pairs) <= 0.55


def test_files_share_no_prompt_and_no_reply() -> None:
    assert not _prompts("training") & _prompts("heldout")
    training, heldout = (
        {_reply(pair, side) for pair in _pairs(half) for side in ("chosen", "rejected")}
        for half in FILES
    )
    assert not training & heldout


@pytest.mark.parametrize("field", ["area", "ask", "situation", "steps", "reason", "bad_advice"])
def test_files_share_no_topic(field: str) -> None:
    read_topics = _generator().read_topics
    training, heldout = (
        {getattr(topic, field) for topic in read_topics(EXAMPLES / "source" / f"{half}_topics.txt")}
        for half in FILES
    )
    assert training
    assert not training & heldout


@pytest.mark.parametrize("kind", PHRASES["training"])
def test_files_share_no_phrase(kind: str) -> None:
    assert PHRASES["training"][kind]
    assert not set(PHRASES["training"][kind]) & set(PHRASES["heldout"][kind])


@both_files
def test_no_pair_is_repeated_or_contradicts_another(half: str) -> None:
    pairs = _pairs(half)
    seen = {(_question(p), _reply(p, "chosen"), _reply(p, "rejected")) for p in pairs}
    assert len(seen) == len(pairs)
    assert not any((prompt, rejected, chosen) in seen for prompt, chosen, rejected in seen)
    chosen = {(_question(p), _reply(p, "chosen")) for p in pairs}
    assert not chosen & {(_question(p), _reply(p, "rejected")) for p in pairs}


def test_demo_spec_lacks_only_its_datasets() -> None:
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
