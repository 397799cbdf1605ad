"""The adapter as a directory that can be loaded and scored with plain PEFT, anywhere.

Everything in it is a function of the run: no paths, no times, no host names, no pickles, and no
config.json, with which transformers' Auto classes would take the directory for a whole model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open

from app.domain.lifecycle import FailureCode
from app.domain.plan import TrainingPlan
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import TrainerError
from worker.reward_model.loading import DeviceConfig
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.reward_model.scoring import score
from worker.trainer.data.pairs import Pair
from worker.trainer.data.tokenized_rows import read_rows
from worker.trainer.export.model_card import model_card
from worker.trainer.training.adapter_check import check_saved
from worker.trainer.training.checkpoints import CONFIG, WEIGHTS, versions
from worker.trainer.training.evaluation import Scores

SUMMARY, PROBES, LOCK, CARD = "reward_model.json", "probes.jsonl", "run.lock.json", "README.md"
PROBE_PAIRS = 16
#: vLLM takes adapters up to this rank unless it is told otherwise.
VLLM_DEFAULT_MAX_RANK = 16


def package(
    directory: Path,
    model: PeftModel,
    tokenizer: PairTokenizer,
    order: WorkOrder,
    plan: TrainingPlan,
    numerics: DeviceConfig,
    scores: Scores | None,
    probes: list[dict[str, Any]],
    metrics: Mapping[str, float],
    engine: str,
) -> dict[str, Any]:
    """Write the adapter's files; returns the summary that ``reward_model.json`` holds."""
    directory.mkdir()
    model.save_pretrained(str(directory), save_embedding_layers=False)
    _check_weights(directory / WEIGHTS, model)
    _clean_config(directory / CONFIG, order, plan)
    tokenizer.tokenizer.save_pretrained(str(directory))
    _clean_tokenizer(directory)
    summary = summarize(model, tokenizer, order, plan, numerics, scores)
    _write_json(directory / SUMMARY, summary)
    (directory / PROBES).write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    _write_json(directory / LOCK, lock(order, plan, numerics, engine))
    (directory / CARD).write_text(model_card(summary, plan, metrics))
    return summary


def summarize(
    model: PeftModel,
    tokenizer: PairTokenizer,
    order: WorkOrder,
    plan: TrainingPlan,
    numerics: DeviceConfig,
    scores: Scores | None,
) -> dict[str, Any]:
    """What a scoring client must know and an adapter's configuration does not say."""
    template = plan.tokenization.chat_template
    found = versions()
    is_servable, reasons = vllm_verdict(plan)
    return {
        "format_version": 1,
        "base_model": order.model_name,
        "revision": order.revision,
        "base_model_sha256": plan.base_model.digest,
        "architecture": plan.architecture,
        "num_labels": 1,
        "head_modules": plan.head_modules,
        "score_position": "last_token" if hasattr(model.get_base_model(), "score") else "pooled",
        "pad_token": plan.tokenization.pad_token,
        "pad_token_id": plan.tokenization.pad_token_id,
        "padding_side": "right",
        "eos_token": tokenizer.tokenizer.eos_token,
        "data_format": plan.data.format,
        "append_eos": plan.tokenization.append_eos,
        "add_special_tokens": not tokenizer.is_conversational,
        "chat_template_sha256": template and hashlib.sha256(template.encode()).hexdigest(),
        "max_length": plan.tokenization.max_length,
        "dtype": str(numerics.dtype).removeprefix("torch."),
        "quantization": numerics.quantization,
        "reward_mean": None if scores is None else float(scores.rewards.mean()),
        "reward_std": None if scores is None else float(scores.rewards.std()),
        "vllm_servable": is_servable,
        "vllm_reasons": reasons,
        "versions": {k: found[k] for k in ("plaudit", "peft", "torch", "transformers")},
    }


def lock(
    order: WorkOrder, plan: TrainingPlan, numerics: DeviceConfig, engine: str
) -> dict[str, Any]:
    """All that decided what bytes came out."""
    device = numerics.device
    return {
        "spec": order.spec,
        "plan": plan.model_dump(mode="json"),
        "datasets": {
            "train": plan.data.train.sha256,
            "eval": plan.data.eval and plan.data.eval.sha256,
        },
        "base_model_sha256": plan.base_model.digest,
        "versions": versions(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "engine": engine,
        "seed": plan.reward["seed"],
        "threads": order.threads,
    }


def vllm_verdict(plan: TrainingPlan) -> tuple[bool, list[str]]:
    """Whether vLLM can serve the adapter (as of 0.33: one 2-D head, plain LoRA), and why not."""
    reasons = []
    extra = set(map(str, _strings(plan.lora["modules_to_save"]))) - {"score"}
    if plan.head_modules != ["score"] or extra:
        saved = ", ".join(sorted({*plan.head_modules, *extra}))
        reasons.append(f"vLLM serves decoders with one 'score' head; this one saves {saved}")
    if plan.lora["use_dora"]:
        reasons.append("vLLM does not serve DoRA")
    if plan.quantization != "none":
        reasons.append(f"it was trained on a {plan.quantization} base model")
    if not reasons and int(str(plan.lora["r"])) > VLLM_DEFAULT_MAX_RANK:
        return True, [f"start vLLM with --max-lora-rank {plan.lora['r']} or more"]
    return not reasons, reasons


def choose_probes(
    held_out: Sequence[Pair], trained_on: Sequence[Pair]
) -> tuple[list[Pair], list[Pair]]:
    """Sixteen pairs if there are that many: held-out ones, then such as were trained on."""
    chosen = _evenly(held_out, PROBE_PAIRS)
    return chosen, _evenly(trained_on, PROBE_PAIRS - len(chosen))


def _evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """From the shortest to the longest: padding is put to the test as well."""
    by_length = sorted(pairs, key=lambda p: (max(len(p.chosen), len(p.rejected)), p.line))
    if len(by_length) <= count:
        return by_length
    return [by_length[i * (len(by_length) - 1) // max(count - 1, 1)] for i in range(count)]


def make_probes(
    pairs: Sequence[Pair],
    dataset: str,
    source: str,
    model: torch.nn.Module,
    tokenizer: PairTokenizer,
    numerics: DeviceConfig,
) -> list[dict[str, Any]]:
    """Rendered texts of ``pairs`` and their scores, each alone.

    The pairs are lines of the file ``source``, which holds the "training" or the "eval" dataset.
    """
    if not pairs:
        return []
    wanted = {pair.line for pair in pairs}
    rows = {row["line"]: row for row in read_rows(source) if row["line"] in wanted}
    probes = []
    for pair in pairs:
        row = rows[pair.line]
        chosen, rejected = tokenizer.render(row)
        rewards = score(
            model,
            [pair.chosen, pair.rejected],
            pad_token_id=tokenizer.plan.pad_token_id,
            batch_size=1,
            bf16=numerics.bf16,
        )
        probes.append(
            {
                "dataset": dataset,
                "line": pair.line,
                "chosen": chosen,
                "rejected": rejected,
                "chosen_score": rewards[0],
                "rejected_score": rewards[1],
            }
        )
    return probes


def _check_weights(path: Path, model: PeftModel) -> None:
    """Everything that was trained is in the file, and every number in it is one."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        check_saved(names, model)
        broken = [n for n in names if not torch.isfinite(file.get_tensor(n)).all()]
    if broken:
        raise TrainerError(FailureCode.NAN_LOSS, f"{broken[0]} holds values that are not finite")


def _clean_config(path: Path, order: WorkOrder, plan: TrainingPlan) -> None:
    """PEFT's configuration without our paths, its lists in an order that no hash seed decides."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = order.model_name
    config["revision"] = order.revision
    config["target_modules"] = sorted(config["target_modules"])
    config["modules_to_save"] = sorted(set(_strings(plan.lora["modules_to_save"])))
    _write_json(path, config)


def _clean_tokenizer(directory: Path) -> None:
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("name_or_path", "is_local", "local_files_only", "trust_remote_code"):
        config.pop(key, None)
    _write_json(path, config)


def _strings(value: Any) -> list[str]:
    return [str(item) for item in value or []]


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
