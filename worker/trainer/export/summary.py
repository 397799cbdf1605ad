"""Content of ``reward_model.json`` and ``run.lock.json``."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from app.domain.plan import TrainingPlan
from worker.reward_model.model_config import execution_arguments
from worker.trainer.export.trained_adapter import TrainedAdapter
from worker.trainer.inspection.base_model import max_positions
from worker.trainer.library_versions import library_versions

#: Highest rank that vLLM accepts by default.
VLLM_DEFAULT_MAX_RANK = 16


def summarize(adapter: TrainedAdapter) -> dict[str, Any]:
    """Return the settings that a scoring client needs besides the adapter's configuration."""
    plan, scores = adapter.plan, adapter.scores
    tokens = plan.tokenization
    template = tokens.chat_template
    versions = library_versions()
    is_servable, reasons = vllm_support(plan)
    has_score_head = hasattr(adapter.model.get_base_model(), "score")
    return {
        "format_version": 1,
        "base_model": adapter.order.model_name,
        "revision": adapter.order.revision,
        "base_model_sha256": plan.base_model.digest,
        "architecture": plan.architecture,
        "num_labels": 1,
        "head_modules": plan.head_modules,
        "head_start": plan.head and plan.head.start,
        "head_tensors": plan.head.tensors if plan.head else {},
        "score_position": "last_token" if has_score_head else "pooled",
        "pad_token": tokens.pad_token,
        "pad_token_id": tokens.pad_token_id,
        "padding_side": "right",
        "eos_token": adapter.tokenizer.tokenizer.eos_token,
        "data_format": plan.data.format,
        "append_eos": tokens.append_eos,
        "add_special_tokens": not adapter.tokenizer.is_conversational,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        "max_length": tokens.max_length,
        "overlong": tokens.overlong,
        "kept_tokens": adapter.tokenizer.kept_tokens,
        "max_positions": max_positions(adapter.base),
        "load_arguments": execution_arguments(adapter.order.model_dir),
        "dtype": str(adapter.device_config.dtype).removeprefix("torch."),
        "quantization": adapter.device_config.quantization,
        "reward_mean": None if scores is None else float(scores.rewards.mean()),
        "reward_std": None if scores is None else float(scores.rewards.std()),
        "vllm_servable": is_servable,
        "vllm_reasons": reasons,
        "versions": {k: versions[k] for k in ("plaudit", "peft", "torch", "transformers")},
    }


def run_lock(adapter: TrainedAdapter) -> dict[str, Any]:
    """Return the inputs that determine the output bytes."""
    order, plan, device = adapter.order, adapter.plan, adapter.device_config.device
    named = {name: data.sha256 for name, data in plan.data.eval_datasets.items()}
    return {
        "spec": order.spec,
        "plan": plan.model_dump(mode="json"),
        "datasets": {
            "train": plan.data.train.sha256,
            "eval": plan.data.eval and plan.data.eval.sha256,
            **({"eval_datasets": named} if named else {}),
        },
        "base_model_sha256": plan.base_model.digest,
        "versions": library_versions(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "engine": adapter.backend,
        "pairs": adapter.counts,
        "training": adapter.outcome,
        "seed": plan.reward_arguments.seed,
        "threads": order.threads,
    }


def vllm_support(plan: TrainingPlan) -> tuple[bool, list[str]]:
    """Return whether vLLM can serve the adapter, and the reasons or the option that it needs.

    vLLM 0.33 serves plain LoRA with one two-dimensional head named ``score``.
    """
    lora = plan.lora_arguments
    reasons = []
    additional = set(lora.modules_to_save) - {"score"}
    if plan.head_modules != ["score"] or additional:
        saved = ", ".join(sorted({*plan.head_modules, *additional}))
        # The wording is part of the adapter's bytes.
        reasons.append(f"vLLM serves decoders with one 'score' head; this one saves {saved}")
    if lora.use_dora:
        reasons.append("vLLM does not serve DoRA")
    if plan.quantization != "none":
        reasons.append(f"it was trained on a {plan.quantization} base model")
    if not reasons and lora.r > VLLM_DEFAULT_MAX_RANK:
        return True, [f"start vLLM with --max-lora-rank {lora.r} or more"]
    return not reasons, reasons
