"""Checks of training on packed rows: parity with TRL's own step, memory, and speed."""

from __future__ import annotations

import gc
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from worker.reward_model.fused_layers import LIGER, fused_kernels
from worker.reward_model.mixed_precision import use_float32_head
from worker.supervisor.check_results import LeftOutError, require
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer, check_parity

#: Qwen3-0.6B on a GPU; on a CPU the same architecture, smaller.
SHAPES: dict[str, dict[str, int]] = {
    "cuda": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
    "cpu": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
}  # fmt: skip
VOCABULARY = 4096
HEAD_SEEDS = 20
#: Prefix and reply tokens of a pair.
PREFIX, REPLY = {"cuda": 400, "cpu": 120}, {"cuda": 80, "cpu": 24}
MIN_COSINE, MAX_LOSS_SHARE = 0.999, 0.01
#: The cosine does not see gradients of a wrong length, as of a loss with a wrong factor.
MAX_LENGTH_SHARE = 0.05
#: Memory of the GPU that may still be in use when a trained model has been dropped.
MAX_KEPT_BYTES = 64 << 20
#: On a CPU the model is small, and the machine may be busy.
MIN_SPEED_RATIO = {"cuda": 2.0, "cpu": 1.2}


def probe(device: str) -> str:
    """Draw random heads: the start of a run must accept packed rows with each of them."""
    with tempfile.TemporaryDirectory() as name:
        trainer = _trainer(SharedPrefixRewardTrainer, device, Path(name))
        head = trainer.packed_model.head
        worst = 0.0
        for seed in range(HEAD_SEEDS):
            torch.manual_seed(seed)
            with torch.no_grad():
                head.weight.normal_(std=0.02)
            result = check_parity(trainer)
            require(result.has_parity, f"head {seed} was refused: {result.reason}")
            worst = max(worst, result.difference or 0.0)
    return f"{HEAD_SEEDS} heads, hidden states differ by {worst:.1e} at most"


def step(device: str) -> str:
    """Compare loss and gradients of a packed step with those of TRL's own step."""
    with tempfile.TemporaryDirectory() as name:
        stock, ours = (
            _trainer(c, device, Path(name)) for c in (RewardTrainer, SharedPrefixRewardTrainer)
        )
        results = [_gradients(t) for t in (stock, ours)]
    return _require_same(*results)


def released_memory(device: str) -> str:
    """Train a step and drop the trainer: no weight of the model may stay in memory."""
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    with tempfile.TemporaryDirectory() as name:
        trainer = _trainer(SharedPrefixRewardTrainer, device, Path(name))
        check_parity(trainer)
        _gradients(trainer)
        weights = [weakref.ref(parameter) for parameter in trainer.model.parameters()]
        del trainer
        gc.collect()
    alive = sum(weight() is not None for weight in weights)
    kept = torch.cuda.memory_allocated() - before if device == "cuda" else 0
    figures = f"{alive} of {len(weights)} weights and {kept >> 20} MiB of the GPU are still held"
    return require(alive == 0 and kept < MAX_KEPT_BYTES, figures)


def lack_of_memory(device: str) -> str:
    """Force an out-of-memory error and a budget below one pair; gradients must stay the same."""
    with tempfile.TemporaryDirectory() as name:
        plain, limited = (_trainer(SharedPrefixRewardTrainer, device, Path(name)) for _ in range(2))
        assert limited.activation_cost.per_token > 0
        layer = limited.packed_model.layers[-2]
        pairs = limited.forward_pass.split(_batch(limited))
        longest, calls = max(pair.token_count for pair in pairs), 0

        def limit(_module: Any, inputs: tuple[Any, ...]) -> None:
            if inputs[0].shape[1] > longest:
                raise torch.OutOfMemoryError("forced by plaudit doctor")

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        layer.register_forward_pre_hook(limit)
        # The backward calls the parts of a layer again, but not the hooks of the layer itself.
        layer.mlp.register_forward_pre_hook(count)
        budget = limited.memory_budget_bytes
        expected, found = _gradients(plain), _gradients(limited)
        require(limited.memory_budget_bytes < budget, "a lack of memory did not lower the budget")
        limited.recompute_above_bytes = limited.memory_budget_bytes = 1
        calls = 0
        recomputed = _gradients(limited)
    require(calls > len(pairs), "a pair over the budget was not computed again in the backward")
    return "; ".join(
        f"{what}: {_require_same(expected, result)}"
        for what, result in (("smaller passes", found), ("recomputed", recomputed))
    )


def speed(device: str) -> str:
    """Measure pairs per second of packed steps and of TRL's own steps, in turns."""
    with tempfile.TemporaryDirectory() as name:
        arms = [_trainer(c, device, Path(name)) for c in (RewardTrainer, SharedPrefixRewardTrainer)]
        for trainer in arms:
            _gradients(trainer)  # warm up
        seconds = [0.0, 0.0]
        for _ in range(3):
            for i, trainer in enumerate(arms):
                seconds[i] += _timed(trainer, device)
    ratio = seconds[0] / seconds[1]
    least = MIN_SPEED_RATIO[device]
    return require(ratio >= least, f"{ratio:.2f} × the speed of TRL, of {least} ×")


def fused_layers(device: str) -> str:
    """Compare packed steps with Liger's kernels with those without: gradients, loss and speed."""
    kernels = fused_kernels(torch.device(device))
    if kernels is None:
        raise LeftOutError(f"{LIGER} is not installed")
    with tempfile.TemporaryDirectory() as name:
        trainer = _trainer(SharedPrefixRewardTrainer, device, Path(name))
        plain = trainer.packed_model
        arms = [plain, replace(plain, uses_fused_layers=True)]
        found = []
        for trainer.packed_model in arms:
            found.append(_gradients(trainer))
        seconds = [0.0, 0.0]
        for _ in range(3):
            for i, trainer.packed_model in enumerate(arms):
                seconds[i] += _timed(trainer, device)
    ratio = seconds[0] / seconds[1]
    return f"{kernels}: {_require_same(*found)}, {ratio:.2f} × the speed without"


def _require_same(expected: tuple[float, torch.Tensor], found: tuple[float, torch.Tensor]) -> str:
    """Compare loss and gradients of two steps; return the figures.

    Raises:
        CheckFailedError: they differ by more than the rounding of bfloat16.
    """
    (loss, gradients), (other_loss, other_gradients) = expected, found
    cosine = float(torch.nn.functional.cosine_similarity(gradients, other_gradients, dim=0))
    length = abs(float(other_gradients.norm() / gradients.norm()) - 1)
    share = abs(other_loss - loss) / max(abs(loss), 1e-6)
    return require(
        cosine >= MIN_COSINE and length <= MAX_LENGTH_SHARE and share <= MAX_LOSS_SHARE,
        f"cosine of the gradients {cosine:.6f}, their length differs by {length:.1e} and the loss "
        f"by {share:.1e} of its value",
    )


def _timed(trainer: Any, device: str) -> float:
    """Return the seconds of a step: of CPU time without a GPU, so that other work counts less."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    began = clock()
    _gradients(trainer)  # ends with a copy to the CPU, which waits for the GPU
    return clock() - began


def _batch(trainer: Any) -> dict[str, Any]:
    batch: dict[str, Any] = trainer.data_collator(list(trainer.train_dataset))
    return batch


def _gradients(trainer: Any) -> tuple[float, torch.Tensor]:
    """Return loss and gradients of one step, the gradients as one vector on the CPU."""
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(trainer.model, trainer._prepare_inputs(_batch(trainer)))
    found = [p.grad.flatten().cpu() for p in trainer.model.parameters() if p.grad is not None]
    # In float32, the cosine of a million numbers with themselves is 1.000005.
    return float(loss), torch.cat(found).double()


def _trainer(trainer_class: type[Any], device: str, folder: Path) -> Any:
    """Build a trainer as a job does: bfloat16 weights on a GPU, LoRA and head in float32."""
    torch.manual_seed(7)
    bf16 = device == "cuda"
    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCABULARY, num_labels=1, pad_token_id=0, eos_token_id=1,
        max_position_embeddings=8192, **SHAPES[device],
    )  # fmt: skip
    dtype = torch.bfloat16 if bf16 else torch.float32
    base: Any = AutoModelForSequenceClassification.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    if bf16:
        use_float32_head(base, ["score"])
    lora = LoraConfig(
        task_type="SEQ_CLS", r=16, init_lora_weights=False, target_modules="all-linear"
    )
    model = get_peft_model(base, lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    arguments = RewardConfig(
        output_dir=str(folder), per_device_train_batch_size=8, max_length=None, bf16=bf16,
        use_cpu=not bf16, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return trainer_class(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(_rows(device)),
        processing_class=word_tokenizer(()),
    )


def word_tokenizer(words: Sequence[str]) -> Any:
    """Return a tokenizer of these words between white space, after a pad and an EOS token."""
    special = {"pad_token": "<pad>", "eos_token": "<eos>"}
    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=special["eos_token"]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]


def _rows(device: str) -> list[dict[str, list[int]]]:
    """Return eight pairs of different lengths, each with a common prefix."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(4, VOCABULARY, (count,), generator=generator).tolist()

    rows = []
    for i in range(8):
        prefix = draw(PREFIX[device] * (4 + i) // 8)
        chosen, rejected = (prefix + draw(REPLY[device] * (2 + j) // 4) for j in (i % 5, i % 3))
        rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return rows
