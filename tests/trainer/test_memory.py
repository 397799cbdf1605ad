"""The memory estimate against what a real optimiser step takes."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from app.domain.compiler import compile_plan
from app.domain.plan import BaseModelFacts, TrainingPlan
from tests.architectures import VOCAB_ROWS, make_checkpoint
from tests.domain.base_model_facts import dataset, decoder, job
from worker.reward_model.loading import DeviceConfig, load_base, trainable, wrap
from worker.trainer.inspection.checkpoint import inspect
from worker.trainer.memory_estimate import (
    LEAST_BUDGET_BYTES,
    OVERHEAD_BYTES,
    estimate_memory,
    explain,
)

GIB = 2**30
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"intermediate_size": 688, "num_key_value_heads": 4, "head_dim": 32},
    "qwen3": {"intermediate_size": 688, "num_key_value_heads": 4, "head_dim": 32},
    "bert": {"intermediate_size": 1024},
    "gpt2": {},
}
WIDE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
        "max_position_embeddings": 512}  # fmt: skip


class Peak(TorchDispatchMode):
    """Adds up the storages that are made, and takes them off when they die."""

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


def measured_step(model: Any, tokens: int, pairs: int) -> int:
    """Peak bytes of a whole step besides the weights that are there before it."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as in training, unless it is asked for
    optimizer = torch.optim.AdamW([p for _, p in trainable(model)], foreach=False)
    ids = torch.randint(5, VOCAB_ROWS - 20, (2 * pairs, tokens))
    with Peak() as peak:
        rewards = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        chosen, rejected = rewards.chunk(2)
        (-torch.nn.functional.logsigmoid(chosen - rejected)).mean().backward()
        optimizer.step()
    return peak.peak


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_estimate_is_above_a_real_step_and_of_its_order(
    tmp_path: Path, name: str, checkpointing: bool
):
    make_checkpoint(tmp_path, name, **WIDE, **SIZES[name])
    facts = inspect(tmp_path, revision=None, chat_template=None, digest="0" * 64)
    training = {"batch_size": 2, "per_device_batch_size": 2}
    plan = compile_plan(
        job(lora={"r": 8}, training=training), "hub", facts, dataset(), None, "text"
    )
    model = wrap(load_base(str(tmp_path), DeviceConfig("cpu", bf16=False), plan.head_modules), plan)
    model.train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    taken = measured_step(model, tokens=256, pairs=2)
    estimate = estimate_memory(
        facts, plan, longest=256, device="cpu", bf16=False, gradient_checkpointing=checkpointing
    )
    # The trained weights are there before the step; gradients and moments are not.
    expected = estimate.activations + estimate.optimizer * 12 // 16
    assert 0.5 * expected < taken <= expected, f"{taken / expected:.2f}"
    assert estimate.weights == sum(
        p.numel() * 4 for n, p in model.get_base_model().named_parameters()
        if "lora_" not in n and "modules_to_save" not in n
    )  # fmt: skip


def plan_of(facts: BaseModelFacts, **spec: Any) -> TrainingPlan:
    return compile_plan(job(**spec), "hub", facts, dataset(), None, "text")


def parts(plan: TrainingPlan, **changes: Any) -> dict[str, int]:
    given = {"longest": 512, "device": "cuda", "bf16": True, "gradient_checkpointing": True}
    return estimate_memory(decoder(), plan, **{**given, **changes}).document()


def test_estimate_grows_with_what_it_is_made_of():
    small = plan_of(decoder(), training={"batch_size": 8, "per_device_batch_size": 1})
    large = plan_of(decoder(), training={"batch_size": 8, "per_device_batch_size": 8})
    assert parts(large)["activations_bytes"] == pytest.approx(
        8 * parts(small)["activations_bytes"], rel=0.01
    )
    assert (
        parts(small, gradient_checkpointing=False)["activations_bytes"]
        > parts(small)["activations_bytes"]
    )
    assert parts(small, bf16=False)["weights_bytes"] == 2 * parts(small)["weights_bytes"]
    assert parts(small)["optimizer_bytes"] == 16 * small.trainable_parameters


def test_longer_than_max_length_is_not_counted():
    plan = plan_of(decoder(), training={"max_length": 256})
    assert parts(plan, longest=4096) == parts(plan, longest=256)


def test_quantised_layers_take_a_fraction():
    full = parts(plan_of(decoder()))["weights_bytes"]
    eight = parts(plan_of(decoder(), quantization="8bit"))["weights_bytes"]
    four = parts(plan_of(decoder(), quantization="4bit"))["weights_bytes"]
    linear = sum(i * o for i, o in decoder().linear_modules.values())
    assert full - eight == linear
    assert four == pytest.approx(full - linear * (2 - 4.127 / 8), abs=1)


def test_packed_batch_stays_within_the_engine_s_budget_unless_one_pair_needs_more():
    long = decoder(max_positions=None)

    def kept(pairs: int, length: int, there: int, checkpointing: bool | str = "auto") -> int:
        training = {
            "batch_size": pairs, "per_device_batch_size": pairs, "max_length": length,
            "gradient_checkpointing": checkpointing,
        }  # fmt: skip
        given = {"longest": length, "device": "cpu", "device_bytes": there}
        return parts(plan_of(long, training=training), **given)["activations_bytes"]

    budget = LEAST_BUDGET_BYTES  # the model is small
    assert kept(1, 1024, 16 * GIB) < budget == kept(64, 1024, 16 * GIB)
    # One pair above it: whole where the machine has room, computed twice where it has not.
    whole = kept(1, 65_536, 16 * GIB)
    assert kept(4, 65_536, 16 * GIB) == whole > budget
    assert kept(4, 65_536, GIB) < whole
    assert kept(4, 65_536, GIB, checkpointing=False) == whole
    assert kept(4, 65_536, 16 * GIB, checkpointing=True) < whole


def test_parts_add_up():
    document = parts(plan_of(decoder()))
    total = document.pop("total_bytes")
    assert sum(document.values()) == total
    assert document["overhead_bytes"] == OVERHEAD_BYTES["cuda"]


def test_too_large_a_run_is_explained_by_its_parts():
    estimate = estimate_memory(
        decoder(),
        plan_of(decoder()),
        longest=1024,
        device="cuda",
        bf16=True,
        gradient_checkpointing=True,
    )
    assert explain(estimate, 24 * GIB) is None
    reason = explain(estimate, GIB // 2)
    assert reason is not None
    assert "is more than 0.5 GiB; lower training.per_device_batch_size" in reason
