"""Tiny reward models of the families that must match stock TRL, and trainers of both backends."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl import RewardConfig, RewardTrainer

VOCABULARY = 120
PAD, EOS = 0, 1

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": EOS,
    "num_labels": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 7},
    "gemma": {"head_dim": 8},
    # Every second layer has a window; scores are capped.
    "gemma2": {"head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8},
    "phi3": {"sliding_window": 9},
    "gpt_oss": {
        "head_dim": 8,
        "sliding_window": 7,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    },
}
TARGETS = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj"],
    "gpt_oss": ["q_proj", "k_proj", "v_proj", "o_proj"],
}


def make_model(family: str, **changes: Any) -> Any:
    """Return a random reward model in float32, with a head large enough for visible differences."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES.get(family, {}), **changes})
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "score" in name else 0.15)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a pad token, an EOS token and the words w2 … wN."""
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<eos>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )


def make_rows(
    lengths: list[tuple[int, int, int]], *, has_margin: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Return rows with p common tokens, then c and r of their own.

    With c or r equal to 0 one sequence is a prefix of the other.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randint(4, VOCABULARY, (count,), generator=generator).tolist()

    rows = []
    for p, c, r in lengths:
        prefix, chosen, rejected = draw(p), draw(c), draw(r)
        if c and r:
            chosen[0], rejected[0] = 2, 3  # ends the common prefix after p tokens
        row: dict[str, Any] = {"chosen_ids": prefix + chosen, "rejected_ids": prefix + rejected}
        if has_margin:
            row["margin"] = float(torch.rand(1, generator=generator))
        rows.append(row)
    return rows


def make_trainer(
    trainer_class: type[RewardTrainer],
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    model: Any = "llama",
    eval_rows: list[dict[str, Any]] | None = None,
    trainer_arguments: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """Build a trainer as `trl reward --use_peft --lora_task_type SEQ_CLS` does, on the CPU.

    ``model`` is a model or the name of a family. ``arguments`` go to RewardConfig,
    ``trainer_arguments`` to the trainer.
    """
    family = model if isinstance(model, str) else "llama"
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_length": None,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    }
    return trainer_class(
        model=make_model(model) if isinstance(model, str) else model,
        args=RewardConfig(**{**defaults, **arguments}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=make_tokenizer(),
        **{"peft_config": lora_config(family), **(trainer_arguments or {})},
    )


def lora_config(family: str = "llama", **changes: Any) -> LoraConfig:
    """Return a configuration with random factors, so that every gradient is non-zero."""
    targets = TARGETS.get(family, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"])
    return LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        init_lora_weights=False,
        target_modules=list(targets),
        **changes,
    )


def gradients(trainer: Any, rows: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of one training step on ``rows`` as one batch."""
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss), found


def assert_close(
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    *,
    relative_to_largest: bool = False,
) -> None:
    """Assert that every gradient differs by at most 1e-5 of its norm.

    With ``relative_to_largest`` by at most 1e-5 of the largest norm: a lone token attends only to
    itself, and identical replies cancel out, so that some gradients consist of rounding errors.
    """
    assert found.keys() == expected.keys()
    norms = {name: float(value.norm()) for name, value in expected.items()}
    floor = max(norms.values()) if relative_to_largest else 1e-3
    for name, value in expected.items():
        norm = max(norms[name], floor)
        difference = float((found[name] - value).norm())
        assert difference <= 1e-5 * norm, f"{name}: {difference} of a norm of {norm}"
