"""The memory estimate compared with the memory of a real optimiser step."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from app.domain.plan import TrainingPlan
from tests.domain.base_model_facts import decoder
from tests.model_factories.architectures import VOCAB_ROWS, make_base_model
from tests.model_factories.orders import facts_of, make_text_plan
from worker.reward_model.loading import DeviceConfig, load_base
from worker.trainer.memory_budget import MIN_BUDGET_BYTES
from worker.trainer.memory_estimate import (
    OVERHEAD_BYTES,
    StepConfig,
    estimate_memory,
    explain_shortage,
)
from worker.trainer.training.lora import add_lora, trainable_parameters

GIB = 2**30
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 688, "num_key_value_heads": 4, "head_dim": 32},
    "qwen3": {"intermediate_size": 688, "num_key_value_heads": 4, "head_dim": 32},
    # Four norms in a block, one key head, and a gated MLP that is six times as wide as the model.
    "gemma3_text": {
        "intermediate_size": 1536,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
    },
    "bert": {"intermediate_size": 1024},
    "gpt2": {},
}
WIDE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
        "max_position_embeddings": 512}  # fmt: skip
STEP = StepConfig(device="cuda", bf16=True, longest=512, activation_checkpointing=True)


class PeakMemory(TorchDispatchMode):
    """Tracks the bytes of the storages that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not _is_tensor(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in old or storage._cdata in self.seen:
                continue
            self.seen.add(storage._cdata)
            self.live += storage.nbytes()
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def peak_bytes_of_step(model: Any, tokens: int, pairs: int) -> int:
    """Measure the peak of a whole step, without the weights that exist before it."""
    optimizer = torch.optim.AdamW([p for _, p in trainable_parameters(model)], foreach=False)
    ids = torch.randint(5, VOCAB_ROWS - 20, (2 * pairs, tokens))
    with PeakMemory() as memory:
        rewards = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        chosen, rejected = rewards.chunk(2)
        (-torch.nn.functional.logsigmoid(chosen - rejected)).mean().backward()
        optimizer.step()
    return memory.peak


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("activation_checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_real_step_takes_half_to_all_of_the_estimate(
    tmp_path: Path, name: str, *, activation_checkpointing: bool
):
    facts = facts_of(make_base_model(tmp_path, name, **{**WIDE, **SIZES[name]}))
    training = {"batch_size": 2, "per_device_batch_size": 2}
    plan = make_text_plan(facts, lora={"r": 8}, training=training)
    base = load_base(str(tmp_path), DeviceConfig("cpu", bf16=False), plan.head_modules)
    model = add_lora(base, plan)
    model.train()
    if activation_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    measured = peak_bytes_of_step(model, tokens=256, pairs=2)
    step = StepConfig(
        device="cpu", bf16=False, longest=256, activation_checkpointing=activation_checkpointing
    )
    estimate = estimate_memory(facts, plan, step)
    # The trained weights exist before the step; gradients and moments do not.
    expected = estimate.activations + estimate.optimizer * 12 // 16
    assert 0.5 * expected < measured <= expected, f"{measured / expected:.2f}"
    assert estimate.weights == sum(
        p.numel() * 4 for n, p in model.get_base_model().named_parameters()
        if "lora_" not in n and "modules_to_save" not in n
    )  # fmt: skip


def plan_of(**spec: Any) -> TrainingPlan:
    return make_text_plan(decoder(), **spec)


def parts(plan: TrainingPlan, **changes: Any) -> dict[str, int]:
    return estimate_memory(decoder(), plan, replace(STEP, **changes)).document()


def test_estimate_grows_with_its_inputs():
    small = plan_of(training={"batch_size": 8, "per_device_batch_size": 1})
    large = plan_of(training={"batch_size": 8, "per_device_batch_size": 8})
    assert parts(large)["activations_bytes"] == pytest.approx(
        8 * parts(small)["activations_bytes"], rel=0.01
    )
    kept = parts(small, activation_checkpointing=False)
    assert kept["activations_bytes"] > parts(small)["activations_bytes"]
    assert parts(small, bf16=False)["weights_bytes"] == 2 * parts(small)["weights_bytes"]
    assert parts(small)["optimizer_bytes"] == 16 * small.trainable_parameters


def test_tokens_beyond_max_length_are_not_counted():
    plan = plan_of(training={"max_length": 256})
    assert parts(plan, longest=4096) == parts(plan, longest=256)


def test_quantised_layers_take_a_fraction():
    full = parts(plan_of())["weights_bytes"]
    eight = parts(plan_of(quantization="8bit"))["weights_bytes"]
    four = parts(plan_of(quantization="4bit"))["weights_bytes"]
    linear = sum(i * o for i, o in decoder().linear_modules.values())
    assert full - eight == linear
    assert four == pytest.approx(full - linear * (2 - 4.127 / 8), abs=1)


def packed_activations(
    pairs: int, length: int, device_bytes: int, *, gradient_checkpointing: bool | str = "auto"
) -> int:
    training = {
        "batch_size": pairs, "per_device_batch_size": pairs, "max_length": length,
        "gradient_checkpointing": gradient_checkpointing,
    }  # fmt: skip
    plan = make_text_plan(decoder(max_positions=None), training=training)
    changes = {"longest": length, "device": "cpu", "chunked_device_bytes": device_bytes}
    return parts(plan, **changes)["activations_bytes"]


def test_packed_batch_stays_within_the_budget_unless_one_pair_exceeds_it():
    budget = MIN_BUDGET_BYTES  # the model is small
    assert packed_activations(1, 1024, 16 * GIB) < budget
    assert packed_activations(64, 1024, 16 * GIB) == budget
    # One pair exceeds it: its activations are kept if the memory allows, recomputed if not.
    kept = packed_activations(1, 65_536, 16 * GIB)
    assert packed_activations(4, 65_536, 16 * GIB) == kept > budget
    assert packed_activations(4, 65_536, GIB) < kept
    assert packed_activations(4, 65_536, GIB, gradient_checkpointing=False) == kept
    assert packed_activations(4, 65_536, 16 * GIB, gradient_checkpointing=True) < kept


def test_total_is_the_sum_of_the_parts():
    document = parts(plan_of())
    total = document.pop("total_bytes")
    assert sum(document.values()) == total
    assert document["overhead_bytes"] == OVERHEAD_BYTES["cuda"]


def test_process_on_a_cpu_also_has_the_tokenizer_and_freed_blocks():
    def overhead(tokens: int, pairs: int) -> int:
        training = {"batch_size": pairs, "per_device_batch_size": pairs}
        facts, step = decoder(max_token_id=tokens - 1), replace(STEP, device="cpu", bf16=False)
        return estimate_memory(facts, plan_of(training=training), step).overhead

    assert overhead(262_144, 8) - overhead(32_000, 8) == (262_144 - 32_000) * 2_000
    assert overhead(32_000, 8) > overhead(32_000, 1)


def test_shortage_is_explained_by_the_parts():
    estimate = estimate_memory(decoder(), plan_of(), replace(STEP, longest=1024))
    assert explain_shortage(estimate, 24 * GIB) is None
    reason = explain_shortage(estimate, GIB // 2)
    assert reason is not None
    assert "exceeds the 0.5 GiB of the device; lower training.per_device_batch_size" in reason
