"""One real micro-batch both ways, before a run: what the static check cannot know."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from worker.reward_model.packed_attention import PackedPass
from worker.reward_model.packed_layout import PackedRow, pack_row, split_pairs
from worker.trainer.shared_prefix.trainer import SharedPrefixRewardTrainer

# Relative to the largest reward. Float32 differs by 1e-7 to 3e-6, a leak between branches by 0.2.
TOLERANCE = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
ROWS_LOOKED_AT = 64


@dataclass(frozen=True)
class ProbeResult:
    """Whether packed rows give this model's own rewards, or why they are not used."""

    ok: bool
    reason: str | None = None
    difference: float | None = None  # the largest, relative to the largest reward


def probe(trainer: SharedPrefixRewardTrainer) -> ProbeResult:
    """Score two pairs of the training set as stock does and packed, on the live model.

    Nothing is left behind: no gradients, and random states as they were, so that a run with a probe
    is a run without one. Only where a model does not allow its last layer to be trimmed, or a GPU
    the variable-length call, is the trainer told to do without. Never raises for what a model does:
    an error becomes the reason.
    """
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    try:
        first = trainer.reward_model
    except AttributeError as error:
        return ProbeResult(False, f"the model is not built as decoders are: {error}")
    # From the fastest to the plainest; on a CPU the variable-length call is never taken anyway.
    ways = [
        replace(first, trims_last_layer=trims, takes_varlen=varlen)
        for trims in dict.fromkeys((first.trims_last_layer, False))
        for varlen in ((True, False) if has_accelerator(trainer) else (True,))
    ]
    result = ProbeResult(False, "nothing was tried")
    with torch.random.fork_rng(devices), torch.no_grad():
        for trainer.reward_model in ways:
            result = _try(trainer)
            if result.ok:
                return result
    trainer.reward_model = first
    return result


def has_accelerator(trainer: SharedPrefixRewardTrainer) -> bool:
    """Whether the trainer's device is one that may have variable-length kernels."""
    return bool(trainer.args.device.type == "cuda")


def _try(trainer: SharedPrefixRewardTrainer) -> ProbeResult:
    try:
        return _compare(trainer)
    except Exception as error:  # noqa: BLE001 - whatever a model raises means: train stock
        return ProbeResult(False, f"the packed forward failed: {type(error).__name__}: {error}")


def _compare(trainer: SharedPrefixRewardTrainer) -> ProbeResult:
    parts, model = trainer.reward_model, trainer.model
    inputs = trainer._prepare_inputs(trainer.data_collator(_two_rows(trainer)))
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    # Float32 weights are compared in float32, whatever the run casts to: the tolerance is tight.
    is_exact = dtypes == {torch.float32}
    off = torch.autocast(trainer.args.device.type, enabled=False)
    with off if is_exact else trainer.accelerator.autocast():
        stock = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).logits
        pad_token_id = model.config.get_text_config().pad_token_id
        row = pack_row(split_pairs(inputs["input_ids"], pad_token_id), trainer.args.device)
        with parts.attending(row) as done:
            packed = parts.rewards(row)
        if has_accelerator(trainer):
            _try_backward(trainer, row)
    if reason := _unseen(trainer, done):
        return ProbeResult(False, reason)
    difference = _difference(stock.float().view(2, -1).T, packed)
    tolerance = TOLERANCE[torch.float32] if is_exact else max(TOLERANCE.get(d, 0) for d in dtypes)
    if not difference <= tolerance:  # a NaN is no agreement
        reason = f"rewards differ by {difference:.1e}, more than {tolerance:.0e} of the largest"
        return ProbeResult(False, reason, difference)
    return ProbeResult(True, None, difference)


def _try_backward(trainer: SharedPrefixRewardTrainer, row: PackedRow) -> None:
    """A kernel may be there forwards only; leaves no gradients behind."""
    parts = trainer.reward_model
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    with torch.enable_grad(), parts.attending(row):
        torch.autograd.grad(parts.rewards(row).sum(), trained, allow_unused=True)


def _unseen(trainer: SharedPrefixRewardTrainer, done: PackedPass) -> str | None:
    parts = trainer.reward_model
    missed = len(set(parts.attentions) - done.seen)
    if missed:
        return f"{missed} of {len(parts.attentions)} attention layers did not take the packed path"
    config = parts.decoder.config.get_text_config()
    has_window = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", 1
    )
    if has_window and not done.windows:
        return "the model has a sliding window that its attention does not name"
    return None


def _difference(stock: Tensor, packed: Tensor) -> float:
    scale = stock.abs().max().clamp_min(1e-6)
    return float((stock - packed).abs().max() / scale)


def _two_rows(trainer: SharedPrefixRewardTrainer) -> list[dict[str, Any]]:
    """Two rows whose replies share a prefix, where the beginning of the data set has them."""
    rows = list(islice(trainer.train_dataset, ROWS_LOOKED_AT))
    sharing = [r for r in rows if r["chosen_ids"][:1] == r["rejected_ids"][:1]]
    return (sharing + rows)[:2]
