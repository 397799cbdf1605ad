"""Tiny reward models of every family that must agree with stock TRL, and runs of both trainers."""

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
    # One layer in two has a window; scores are capped.
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
    """A random reward model in float32; the head is drawn large, so that rewards differ visibly."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES.get(family, {}), **changes})
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 if "score" in name else 0.15)
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words w2 … wN behind a padding and an end token."""
    words = {"<pad>": PAD, "<eos>": EOS} | {f"w{i}": i for i in range(2, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<eos>")),
        pad_token="<pad>",
        eos_token="<eos>",
    )


def make_rows(
    lengths: list[tuple[int, int, int]], *, has_margin: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows with p common tokens, then c and r of their own; c or r may be 0 (one a prefix)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randint(4, VOCABULARY, (count,), generator=generator).tolist()

    rows = []
    for p, c, r in lengths:
        prefix, chosen, rejected = draw(p), draw(c), draw(r)
        if c and r:
            chosen[0], rejected[0] = 2, 3  # p is the whole common prefix
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
    family: str = "llama",
    model: Any = None,
    eval_rows: list[dict[str, Any]] | None = None,
    lora: dict[str, Any] | None = None,
    trainer_arguments: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A trainer as `trl reward --use_peft --lora_task_type SEQ_CLS` builds it, on the CPU."""
    targets = TARGETS.get(family, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"])
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
        model=model or make_model(family),
        args=RewardConfig(**{**defaults, **arguments}),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=make_tokenizer(),
        **{
            # Both factors are drawn, so that every gradient is non-zero.
            "peft_config": LoraConfig(
                task_type="SEQ_CLS",
                r=4,
                init_lora_weights=False,
                target_modules=list(targets),
                **(lora or {}),
            ),
            **(trainer_arguments or {}),
        },
    )


def gradients(trainer: Any, rows: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step on `rows` as one batch."""
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, trainer.data_collator(rows))
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss), found


def assert_close(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, is_any: bool = False
) -> None:
    """Every gradient is the expected one but for 1e-5 of its size.

    With ``is_any``: but for 1e-5 of the largest. A lone token attends to itself and identical
    replies cancel, so that some gradients are rounding alone, which need not agree.
    """
    assert found.keys() == expected.keys()
    sizes = {name: float(value.norm()) for name, value in expected.items()}
    floor = max(sizes.values()) if is_any else 1e-3
    for name, value in expected.items():
        size = max(sizes[name], floor)
        difference = float((found[name] - value).norm())
        assert difference <= 1e-5 * size, f"{name}: {difference} beside {size}"
