"""Which architectures can be trained as reward models: each one tried, the table written.

    python -m bench.architectures            all of them, into docs/architectures.md
    python -m bench.architectures bert gpt2  these, to the screen

Each is a tiny random model, saved as the masked or causal language model that people start from,
and goes the service's own way: inspected, planned, wrapped, trained three steps by TRL's
RewardTrainer, saved, and loaded again with plain PEFT into a base whose new weights are drawn from
another seed. The table has the largest difference between the two models' scores.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_VERBOSITY="error")

import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, PrinterCallback, set_seed
from trl import RewardTrainer

from app.domain.compiler import compile_plan
from app.domain.plan import BaseModelFacts, DatasetRef, TrainingPlan
from app.domain.spec import RewardJobSpec
from tests.architectures import ARCHITECTURES, make_checkpoint
from worker.reward_model.errors import TrainerError
from worker.reward_model.loading import DeviceConfig, load_base, trainable, wrap
from worker.reward_model.pair_tokenizer import load_tokenizer
from worker.reward_model.scoring import score
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.training.adapter_check import check_saved, check_wrapped
from worker.trainer.training.run import reward_config

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
STEPS = 3
_HEAD = """\
# Architectures

Written by `make architectures` with transformers {transformers}, PEFT {peft}, TRL {trl} and torch
{torch}; [bench/architectures.py](../bench/architectures.py) says how. Do not edit.

A base model is not looked up in this list: what a checkpoint lacks, and what of it LoRA can adapt,
is found out from the checkpoint itself, and every finished adapter is loaded again and compared
before it is published. The list shows that this works.

## Supported: {count}

*Saved as*: the kind of checkpoint that training starts from. *Head*: modules that start random, or
give the score; trained and saved in full. *Targets*: what LoRA adapts, in a mixture of experts the
attention only. *Trained*, *moved*, *saved*: tensors with a gradient, those that {steps} steps
changed, those in the adapter's file. *Reload*: the largest difference between the scores of the
trained model and of a fresh base with the adapter. *Padding*: the largest difference between a text
scored alone and in a padded batch (fp32).

Fewer moved than trained: the last bias of a head is the same in both rewards of a pair and cancels
out of the loss. LUKE's entity queries, the layout branch of LiLT's last layer, the local
projections of Longformer's last layer (only its global first token is read) and Doge's `dt_proj`
had no part in these scores.

| Model type | Saved as | Head | Targets | Trained | Moved | Saved | Reload | Padding |
|---|---|---|---|--:|--:|--:|--:|--:|"""
_FOOT = """
## Refused: {count}

| Model type | Saved as | Reason |
|---|---|---|"""
TEXTS = [
    "how do I cook rice? rinse it, boil it, rest it.",
    "how do I cook rice? no.",
    "why is the sky blue? because air scatters blue light the most of all the light there is.",
    "why is the sky blue? it is not.",
]


@dataclass(frozen=True)
class RoundTrip:
    """What became of one checkpoint."""

    facts: BaseModelFacts
    plan: TrainingPlan
    trained: int  # tensors with requires_grad
    moved: int  # of those, how many differ after training
    saved: int  # tensors in the adapter's file
    difference: float  # of scores, after a reload under another seed
    padding: float  # of scores, alone and in a padded batch


def round_trip(
    checkpoint: Path, work: Path, *, spec: dict[str, object] | None = None, steps: int = STEPS
) -> RoundTrip:
    """Train the checkpoint for a few steps, save the adapter, load it again, compare scores.

    Raises:
        TrainerFailure: the architecture is refused, with the reason.
    """
    facts = inspect(checkpoint, revision=None, chat_template=None, digest="0" * 64)
    plan = compile_plan(_spec(steps, spec or {}), "tiny", facts, _dataset_ref(), None, "text")
    tokenizer = load_tokenizer(checkpoint, plan.tokenization)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    numerics = DeviceConfig(device="cpu", bf16=False)
    set_seed(1)
    model = wrap(load_base(str(checkpoint), numerics, plan.head_modules), plan)
    check_wrapped(model, plan)
    before = {name: p.detach().clone() for name, p in trainable(model)}
    arguments = reward_config(plan, numerics, model)
    arguments.output_dir = str(work)
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"chosen_ids": ids[::2], "rejected_ids": ids[1::2]}),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    moved = sum(not torch.equal(p, before[name]) for name, p in trainable(model))
    model.save_pretrained(str(work / "adapter"), save_embedding_layers=False)
    with safe_open(work / "adapter" / "adapter_model.safetensors", "pt") as file:
        keys = list(file.keys())
    check_saved(keys, model)
    pad = plan.tokenization.pad_token_id
    # As after a load: matmul folds batches by requires_grad, one bit apart (Longformer).
    model.requires_grad_(requires_grad=False)
    scores = score(model, ids, pad_token_id=pad, batch_size=len(ids))
    alone = score(model, ids, pad_token_id=pad, batch_size=1)
    again = score(_reloaded(checkpoint, work / "adapter", pad), ids, pad_token_id=pad, batch_size=4)
    return RoundTrip(
        facts=facts,
        plan=plan,
        trained=len(before),
        moved=moved,
        saved=len(keys),
        difference=_largest(scores, again),
        padding=_largest(scores, alone),
    )


def main(names: list[str]) -> int:
    """Try the named architectures, or all of them for the page; 1 if any is not as it should be."""
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    supported, refused, wrong = [], [], []
    for name in names or ARCHITECTURES:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = make_checkpoint(Path(folder, "base"), name)
            try:
                row = _row(name, found := round_trip(checkpoint, Path(folder)))
            except TrainerError as failure:
                refused.append(row := f"| {name} | {_kind(name)} | {failure.detail} |")
                is_right = ARCHITECTURES[name].refused is not None
            else:
                supported.append(row)
                is_right = found.difference == 0 and found.saved == found.trained
                # An unused layer or the head's last bias may stay; most must learn.
                is_right = is_right and found.moved > found.trained / 2
                is_right = is_right and ARCHITECTURES[name].refused is None
        if not is_right:
            wrong.append(name)
        print(
            f"{row} {time.monotonic() - began:.1f} s{'' if is_right else '  <- WRONG'}", flush=True
        )
    if not names:
        PAGE.write_text(_page(supported, refused))
    print(
        f"{len(supported)} supported, {len(refused)} refused, wrong: {', '.join(wrong) or 'none'}"
    )
    return 1 if wrong else 0


def _reloaded(checkpoint: Path, adapter: Path, pad_token_id: int) -> PeftModel:
    set_seed(2)
    base = AutoModelForSequenceClassification.from_pretrained(
        str(checkpoint), num_labels=1, dtype=torch.float32
    )
    base.config.get_text_config().pad_token_id = pad_token_id
    return PeftModel.from_pretrained(base, str(adapter))


def _spec(steps: int, changes: dict[str, object]) -> RewardJobSpec:
    training = {"max_steps": steps, "batch_size": 2, "learning_rate": 1e-2, "max_length": 64}
    return RewardJobSpec.model_validate(
        {
            "base_model": "tiny",
            "train_dataset": "ds_" + "0" * 32,
            "lora": {"r": 2, "alpha": 4},
            "training": training,
            "resources": {"gpus": 0},
            **changes,
        }
    )


def _dataset_ref() -> DatasetRef:
    return DatasetRef(id="ds_" + "0" * 32, sha256="0" * 64, pair_count=len(TEXTS) // 2)


def _largest(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def _kind(name: str) -> str:
    return {
        "AutoModelForCausalLM": "causal",
        "AutoModelForMaskedLM": "masked",
        "AutoModelForSeq2SeqLM": "seq2seq",
        "AutoModel": "base",
    }[ARCHITECTURES[name].saved_as.__name__]


def _row(name: str, found: RoundTrip) -> str:
    heads = ", ".join(f"`{path}`" for path in found.plan.head_modules)
    targets = found.plan.lora["target_modules"]
    assert isinstance(targets, list)
    cells = [
        name,
        _kind(name),
        heads,
        " ".join(f"`{target}`" for target in targets),
        f"{found.trained}",
        f"{found.moved}",
        f"{found.saved}",
        f"{found.difference:g}",
        f"{found.padding:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def _page(supported: list[str], refused: list[str]) -> str:
    head = _HEAD.format(
        transformers=transformers.__version__,
        peft=peft.__version__,
        trl=trl.__version__,
        torch=torch.__version__.split("+")[0],
        steps=STEPS,
        count=len(supported),
    )
    foot = _FOOT.format(count=len(refused))
    return "\n".join([head, *supported, foot, *refused, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
