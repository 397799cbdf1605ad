"""Estimate the memory that a run needs, before any of it is allocated.

The estimate is computed from the facts about the base model and the plan. It is an upper estimate:
steps of small models took 50 to 100 % of it (tests/trainer/test_memory_estimate.py). It assumes
attention kernels that store no scores, such as PyTorch's scaled dot product or flash attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.paths import matches
from app.domain.plan import BaseModelFacts, TrainingPlan
from worker.trainer.memory_budget import activation_budget_bytes, recompute_above_bytes

#: Bytes of a trained parameter: fp32 weight, gradient and the two moments of Adam.
TRAINED_BYTES = 16
#: Bytes of a frozen weight of a linear layer. NF4 with double quantisation adds 0.127 bits per
#: weight for its scales (Dettmers et al. 2023, QLoRA, section 3).
QUANTIZED_BYTES = {"8bit": 1.0, "4bit": (4 + 0.127) / 8}
#: CUDA context and allocator slack; on a CPU the libraries and the tokenised data.
OVERHEAD_BYTES = {"cuda": 1 << 30, "cpu": 640 << 20}
#: On a CPU the peak is that of the process. It includes the tokenizer (0.46 GB for the 262,144
#: tokens of Gemma 3) and freed blocks that the allocator keeps, as a share of the activations.
TOKENIZER_BYTES_PER_TOKEN = 2_000
KEPT_BY_ALLOCATOR = 0.5
#: Activations of hidden size that a block keeps besides the inputs and outputs of its linear
#: layers: residual additions, norms, attention output and softmax statistics.
HIDDEN_COPIES = 8


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one optimiser step, in bytes."""

    weights: int
    optimizer: int  # trained parameters with gradients and moments
    activations: int
    overhead: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.optimizer + self.activations + self.overhead

    def document(self) -> dict[str, int]:
        """Return the parts and ``total_bytes`` for JSON."""
        return {
            "weights_bytes": self.weights,
            "optimizer_bytes": self.optimizer,
            "activations_bytes": self.activations,
            "overhead_bytes": self.overhead,
            "total_bytes": self.total,
        }


@dataclass(frozen=True)
class StepConfig:
    """The properties of a step that determine its memory."""

    device: str  # "cpu" or "cuda"
    bf16: bool  # frozen weights and activations in bfloat16, otherwise in float32
    longest: int  # tokens of the longest sequence
    activation_checkpointing: bool  # of the stock backend
    #: Memory of the device when a budget divides batches; None with the stock backend.
    chunked_device_bytes: int | None = None


def estimate_memory(
    facts: BaseModelFacts, plan: TrainingPlan, config: StepConfig
) -> MemoryEstimate:
    """Estimate a step on a batch of the longest pairs, each of which has two sequences.

    With activation checkpointing every block keeps its input only, and one block at a time is
    recomputed. Divided batches stay within the activation budget unless one pair exceeds it.
    """
    width = 2 if config.bf16 else 4
    pair_tokens = 2 * min(config.longest, plan.tokenization.max_length)
    batch_tokens = pair_tokens * plan.reward_arguments.per_device_train_batch_size
    weights = _weights(facts, plan, width)
    widest = max(outputs for _, outputs in facts.linear_modules.values())

    def activations(tokens: int, *, is_recomputed: bool) -> int:
        block = _block_activations(facts, plan, tokens, width)
        hidden = tokens * facts.hidden_size * width
        blocks = facts.layer_count * (hidden if is_recomputed else block)
        # The recomputed block; embeddings and last norm; two gradients of the widest layer.
        gradients = 2 * tokens * max(widest, facts.hidden_size) * width
        return blocks + (block if is_recomputed else 0) + 2 * hidden + gradients

    if config.chunked_device_bytes is None:
        kept = activations(batch_tokens, is_recomputed=config.activation_checkpointing)
    else:
        device_bytes = config.chunked_device_bytes
        budget = activation_budget_bytes(weights, config.device, device_bytes)
        threshold = recompute_above_bytes(plan, config.device, device_bytes) or budget
        may_recompute = plan.gradient_checkpointing is not False
        exceeds = activations(pair_tokens, is_recomputed=False) > threshold
        one_pair = activations(pair_tokens, is_recomputed=may_recompute and exceeds)
        kept = min(activations(batch_tokens, is_recomputed=False), max(budget, one_pair))
    overhead = OVERHEAD_BYTES[config.device]
    if config.device == "cpu":
        overhead += TOKENIZER_BYTES_PER_TOKEN * (facts.max_token_id + 1)
        overhead += int(KEPT_BY_ALLOCATOR * kept)
    return MemoryEstimate(
        weights=weights,
        optimizer=TRAINED_BYTES * plan.trainable_parameters,
        activations=kept,
        overhead=overhead,
    )


def explain_shortage(estimate: MemoryEstimate, device_bytes: int) -> str | None:
    """Explain why a run will not fit into memory and what to do; return None if it will."""
    if estimate.total <= device_bytes:
        return None
    return (
        f"the estimated peak memory of {_gib(estimate.total)} GiB (weights "
        f"{_gib(estimate.weights)}, optimizer {_gib(estimate.optimizer)}, activations "
        f"{_gib(estimate.activations)}) exceeds the {_gib(device_bytes)} GiB of the device; lower "
        "training.per_device_batch_size or training.max_length, or enable "
        "training.gradient_checkpointing"
    )


def _weights(facts: BaseModelFacts, plan: TrainingPlan, width: int) -> int:
    """Return the bytes of the frozen base, including the originals of modules trained in full."""
    if plan.quantization == "none":
        return facts.parameter_count * width
    in_blocks = sum(i * o for i, o in facts.linear_modules.values())
    rest = facts.parameter_count - in_blocks
    return int(in_blocks * QUANTIZED_BYTES[plan.quantization]) + rest * width


def _block_activations(facts: BaseModelFacts, plan: TrainingPlan, tokens: int, width: int) -> int:
    """Return the bytes that the average block keeps: outputs of linear layers, wide inputs, hidden
    copies.

    A frozen layer keeps no input. An adapted layer keeps its input in fp32 for LoRA's A, and the
    output of A. A wide input is the product of a gated MLP, which keeps its factors: one is the
    output of a layer, the other one is counted here in fp32. In bf16 the copy for LoRA covers it.
    """
    lora, hidden = plan.lora_arguments, facts.hidden_size
    adapted = {path for name in lora.target_modules for path in matches(name, facts.linear_modules)}
    kept, wide_copies = 0, 2 if width == 4 else 1
    for path, (inputs, outputs) in facts.linear_modules.items():
        kept += outputs * width + (wide_copies * inputs * width if inputs != hidden else 0)
        if path in adapted:
            kept += lora.r * 4 + (inputs * 4 if width == 2 else 0)
    per_block = kept / max(1, facts.layer_count)
    return int(tokens * (per_block + HIDDEN_COPIES * hidden * width))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
