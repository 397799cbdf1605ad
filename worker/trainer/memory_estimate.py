"""How much memory a run will need, by part, before any of it is taken.

Arithmetic on facts and plan; nothing is allocated. Bytes throughout. Meant to be above the truth:
a measured step of small models took 50 to 100 % of it (tests/trainer/test_memory.py). Attention is
taken to keep no scores, as with PyTorch's scaled dot product or flash kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.paths import matches
from app.domain.plan import BaseModelFacts, TrainingPlan

#: fp32 weight, gradient and the two moments of Adam.
TRAINED_BYTES = 16
#: Bytes a frozen weight of a linear layer takes; NF4 with double quantisation keeps 0.127 more
#: bits a weight for its scales (Dettmers et al. 2023, QLoRA, section 3).
QUANTIZED_BYTES = {"8bit": 1.0, "4bit": (4 + 0.127) / 8}
#: CUDA context and allocator slack; the libraries and the tokenised data on a CPU.
OVERHEAD_BYTES = {"cuda": 1 << 30, "cpu": 1 << 29}
#: Residual additions, norms, attention output and softmax statistics: hidden-sized activations a
#: block keeps besides the inputs and outputs of its linear layers.
HIDDEN_COPIES = 8
#: Below this the packed engine splits no batch.
LEAST_BUDGET_BYTES = 256 * 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one optimiser step, in bytes."""

    weights: int
    optimizer: int  # trained parameters with gradients and moments
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.optimizer + self.activations + self.overhead

    def document(self) -> dict[str, int]:
        """For JSON: the parts and ``total_bytes``."""
        return {
            "weights_bytes": self.weights,
            "optimizer_bytes": self.optimizer,
            "activations_bytes": self.activations,
            "overhead_bytes": self.overhead,
            "total_bytes": self.total,
        }


def estimate_memory(
    facts: BaseModelFacts,
    plan: TrainingPlan,
    *,
    longest: int,
    device: str,
    bf16: bool,
    gradient_checkpointing: bool,
    device_bytes: int | None = None,
) -> MemoryEstimate:
    """What a step on the longest pairs takes: ``longest`` tokens a sequence, two sequences a pair.

    ``device`` is "cpu" or "cuda"; ``bf16`` says that the base's weights and the activations are in
    bfloat16. With gradient checkpointing every block keeps its input only, and one block at a time
    is computed again; without, all of them keep theirs. With ``device_bytes`` the batch is packed:
    what is kept stays within the engine's budget, unless one pair alone needs more.
    """
    width = 2 if bf16 else 4
    pair = 2 * min(longest, plan.tokenization.max_length)
    tokens = pair * int(str(plan.reward["per_device_train_batch_size"]))
    weights = _weights(facts, plan, width)

    def kept(tokens: int, *, checkpointed: bool) -> int:
        block = _block_activations(facts, plan, tokens, width)
        hidden = tokens * facts.hidden_size * width
        blocks = facts.layer_count * (hidden if checkpointed else block)
        # The one block that is computed again; embeddings, last norm, and their gradients.
        return blocks + (block if checkpointed else 0) + 4 * hidden

    activations = kept(tokens, checkpointed=gradient_checkpointing)
    if device_bytes is not None:
        budget = memory_budget_bytes(weights, device, device_bytes)
        above = checkpoint_above_bytes(plan, device, device_bytes) or budget
        may = plan.gradient_checkpointing is not False
        one = kept(pair, checkpointed=may and kept(pair, checkpointed=False) > above)
        activations = min(kept(tokens, checkpointed=False), max(budget, one))
    return MemoryEstimate(
        weights=weights,
        optimizer=TRAINED_BYTES * plan.trainable_parameters,
        activations=activations,
        overhead=OVERHEAD_BYTES[device],
    )


def memory_budget_bytes(weights: int, device_type: str, device_bytes: int) -> int:
    """Bytes of activations a training step may keep, beside ``weights`` bytes of a model.

    What is free just now is not asked, and of a CPU not even what there is: the budget decides how
    a batch is split, and a resumed run has to split as the run it continues.
    """
    beside = (device_bytes - weights) // 2 if device_type == "cuda" else weights
    return max(LEAST_BUDGET_BYTES, beside)


def checkpoint_above_bytes(plan: TrainingPlan, device: str, device_bytes: int) -> int | None:
    """What a packed pair may keep before its activations are computed twice; None: the budget.

    Left to "auto", a machine's memory may be half used up first.
    """
    if plan.gradient_checkpointing != "auto" or device == "cuda":
        return None
    return device_bytes // 2


def checkpoints_activations(
    wanted: bool | Literal["auto"], device: str, *, can_checkpoint: bool
) -> bool:
    """Whether activations are computed twice to save memory; "auto": on GPUs, whose is scarce."""
    return can_checkpoint and (device == "cuda" if wanted == "auto" else wanted)


def explain(estimate: MemoryEstimate, limit: int) -> str | None:
    """Why a run will not fit into ``limit`` bytes, and what to do; None if it will."""
    if estimate.total <= limit:
        return None
    return (
        f"estimated peak {_gib(estimate.total)} GiB (weights {_gib(estimate.weights)}, optimizer "
        f"{_gib(estimate.optimizer)}, activations {_gib(estimate.activations)}) is more than "
        f"{_gib(limit)} GiB; lower training.per_device_batch_size or training.max_length, or "
        "enable training.gradient_checkpointing"
    )


def _weights(facts: BaseModelFacts, plan: TrainingPlan, width: int) -> int:
    """Of the frozen base; a module that is saved in full is there twice, once as it was."""
    if plan.quantization == "none":
        return facts.parameter_count * width
    in_blocks = sum(i * o for i, o in facts.linear_modules.values())
    rest = facts.parameter_count - in_blocks
    return int(in_blocks * QUANTIZED_BYTES[plan.quantization]) + rest * width


def _block_activations(facts: BaseModelFacts, plan: TrainingPlan, tokens: int, width: int) -> int:
    """Of the average block: what its linear layers give, take in besides hidden states, the rest.

    A frozen weight keeps no input; an adapted one keeps it for LoRA's A, in fp32, and A's output.
    """
    names = [str(n) for n in _list(plan.lora["target_modules"])]
    adapted = {path for name in names for path in matches(name, facts.linear_modules)}
    rank, hidden = int(str(plan.lora["r"])), facts.hidden_size
    kept = 0
    for path, (inputs, outputs) in facts.linear_modules.items():
        kept += outputs * width + (inputs * width if inputs != hidden else 0)
        if path in adapted:
            kept += rank * 4 + (inputs * 4 if width == 2 else 0)
    per_block = kept / max(1, facts.layer_count)
    return int(tokens * (per_block + HIDDEN_COPIES * hidden * width))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
