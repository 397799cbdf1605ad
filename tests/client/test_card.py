"""Only scoring programs like those that Plaudit writes are run from a model card."""

from __future__ import annotations

import ast
import itertools
import json
from pathlib import Path

import pytest

from plaudit import ModelCardError, load_reward_model
from plaudit._card import read_program
from worker.trainer.export.scoring_program import scoring_program

SUMMARY = {
    "base_model": "all-minilm-l6-v2",
    "revision": None,
    "data_format": "conversational",
    "append_eos": False,
    "eos_token": None,
    "quantization": "none",
    "dtype": "float32",
    "add_special_tokens": False,
    "head_modules": ["score"],
}
VARIANTS = [
    {"revision": revision, "dtype": dtype, **text, **length, "quantization": quantization}
    for revision, dtype, text, quantization, length in itertools.product(
        (None, "0123abc"),
        ("float32", "bfloat16"),
        (
            {"data_format": "conversational"},
            {"data_format": "text"},
            {"data_format": "text", "append_eos": True, "eos_token": '<"e\\s">'},
        ),
        ("none", "8bit", "4bit"),
        (
            {},
            {"overlong": "drop", "max_positions": 512},
            {"overlong": "truncate_left", "load_arguments": {"return_dict": True}},
        ),
    )
]
CARD = scoring_program(SUMMARY)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_card_of_plaudit_is_read(variant: dict[str, object]) -> None:
    program = read_program(scoring_program(SUMMARY | variant), "/the/base")
    loading, scoring = ast.unparse(program.loading), ast.unparse(program.scoring)
    assert "base = '/the/base'" in loading
    assert loading.count("from_pretrained") == 3
    assert "adapter = " not in loading
    assert "scores = " in scoring
    for left_out in ("prompt = ", "replies = ", "print"):
        assert left_out not in loading + scoring


def test_base_of_the_card_is_used_where_it_can_be_had() -> None:
    hub = read_program(scoring_program(SUMMARY | {"revision": "0123abc"}), None)
    assert "base = snapshot_download(" in ast.unparse(hub.loading)
    with pytest.raises(ModelCardError, match="not on a hub") as caught:
        read_program(CARD, None)
    assert "base=" in str(caught.value.hint)


def with_line(line: str) -> str:
    """Return the card with one more line after the imports."""
    return CARD.replace("\nfacts = ", f"\n{line}\nfacts = ")


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "import torch as json",
        "from torch import load as tokenizer",
        "from . import secrets",
        "from os import system as print",
        "import torch.hub",
        "open('/etc/passwd')",
        "eval('1')",
        "exec('1')",
        "__import__('os')",
        "torch.load('weights')",
        "torch.hub.load('somebody/repository', 'model')",
        "torch.serialization.pickle.loads(b'')",
        "json.decoder.scanner('x')",
        "warnings.sys.exit(1)",
        "warnings = torch.load",
        "tokenizer = torch.load",
        "tokenizer, other = torch.load, 1",
        "Path = torch.load",
        "print = torch.load",
        "torch = Path('.')",
        "[model('weights') for model in [torch.load]]",
        "scores = [x for Path in [1]]",
        "facts.__class__.__mro__",
        "().__class__",
        "lambda: 1",
        "def load(): pass",
        "class Path: pass",
        "while True: pass",
        "if True: print(1)",
        "if 2 > 1: print(1)",
        "if 2 > 1: raise SystemExit",
        "raise ValueError from 1",
        "logging.disable()",
        "logging.logging.shutdown()",
        "try:\n    print(1)\nexcept Exception: pass",
        "del torch",
        "assert False",
        "raise SystemExit",
        "with open('x') as model: print(1)",
        "x = (model := torch.load)",
        "AutoTokenizer.from_pretrained(adapter, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(adapter, **{'trust_remote_code': True})",
        "AutoTokenizer.from_pretrained('somebody/tokenizer')",
        "AutoTokenizer.from_pretrained(pretrained_model_name_or_path='somebody/tokenizer')",
        "Path(**{'a': 1})",
        "AutoModel.from_pretrained(base)",
        "torch.AutoTokenizer.from_pretrained(base)",
        "snapshot_download(facts['repository'])",
        "snapshot_download('a', local_dir=adapter)",
        "tokenizer.save_pretrained(adapter)",
        "adapter.unlink()",
        "adapter.write_text('x')",
        "(print)('x').system('ls')",
        "x = f'{torch.load}'",
    ],
)
def test_program_that_does_anything_else_is_not_run(line: str) -> None:
    with pytest.raises(ModelCardError, match=r"was not run|must set"):
        read_program(with_line(line), "/the/base")


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("# A card", "contains no scoring program"),
        ("```python\nx = (\n```", "not valid Python"),
        (CARD.replace("\nprompt = ", "\nquestion = "), "must set prompt exactly once"),
        (CARD.replace("\nprint(", "\nprompt = 1\nprint("), "must set prompt exactly once"),
        (CARD.replace("scores = model", "rewards = model"), "must set scores exactly once"),
        (CARD.replace('adapter = Path(".")', 'here = Path(".")'), "must set adapter exactly once"),
    ],
)
def test_card_of_another_form_is_told(card: str, reason: str) -> None:
    with pytest.raises(ModelCardError, match=reason):
        read_program(card, "/the/base")


def test_directory_without_a_card_is_told(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(ModelCardError, match="no model card") as caught:
        load_reward_model(tmp_path, tmp_path / "base")
    assert "download" in str(caught.value.hint)
    (tmp_path / "reward_model.json").write_text(json.dumps({"is_merged": True}))
    with pytest.raises(ModelCardError) as caught:
        load_reward_model(tmp_path, tmp_path / "base")
    assert "merged model" in str(caught.value.hint)


def test_base_that_is_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(NotADirectoryError, match="no-base"):
        load_reward_model(tmp_path, tmp_path / "no-base")
