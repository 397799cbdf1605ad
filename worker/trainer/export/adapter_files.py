"""Write the adapter to a directory that plain PEFT can load and score with on any machine.

The files depend on the run alone: they contain no paths, times, host names or pickles. There is no
config.json, because transformers' Auto classes would load the directory as a whole model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open

from app.domain.lifecycle import FailureCode
from worker.reward_model.errors import TrainerError
from worker.reward_model.packaged_adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SUMMARY
from worker.trainer.data.pair_table import Pair
from worker.trainer.export.model_card import model_card
from worker.trainer.export.probes import make_probes
from worker.trainer.export.summary import run_lock, summarize
from worker.trainer.export.trained_adapter import TrainedAdapter
from worker.trainer.training.adapter_check import check_saved_tensors

PROBES, LOCK, CARD = "probes.jsonl", "run.lock.json", "README.md"


def write_adapter(
    directory: Path,
    adapter: TrainedAdapter,
    train_pairs: Sequence[Pair],
    eval_pairs: Sequence[Pair],
) -> dict[str, Any]:
    """Write the adapter's files; return the summary, the content of ``reward_model.json``.

    Raises:
        TrainerError: internal or nan_loss if the saved weights differ from the trained ones.
    """
    probes = make_probes(adapter, train_pairs, eval_pairs)
    directory.mkdir()
    adapter.model.save_pretrained(str(directory), save_embedding_layers=False)
    _check_weights(directory / ADAPTER_WEIGHTS, adapter.model)
    _clean_adapter_config(directory / ADAPTER_CONFIG, adapter)
    adapter.tokenizer.tokenizer.save_pretrained(str(directory))
    _clean_tokenizer_config(directory / "tokenizer_config.json")
    summary = summarize(adapter)
    _write_json(directory / SUMMARY, summary)
    (directory / PROBES).write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    lock = run_lock(adapter)
    _write_json(directory / LOCK, lock)
    (directory / CARD).write_text(model_card(summary, adapter.plan, adapter.metrics, lock))
    return summary


def _check_weights(path: Path, model: PeftModel) -> None:
    """Check that the file contains the trained tensors, and only finite numbers."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        check_saved_tensors(names, model)
        broken = [n for n in names if not torch.isfinite(file.get_tensor(n)).all()]
    if broken:
        raise TrainerError(FailureCode.NAN_LOSS, f"{broken[0]} contains values that are not finite")


def _clean_adapter_config(path: Path, adapter: TrainedAdapter) -> None:
    """Replace local paths in PEFT's configuration, and sort lists that PEFT makes from sets."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = adapter.order.model_name
    config["revision"] = adapter.order.revision
    config["target_modules"] = sorted(config["target_modules"])
    config["modules_to_save"] = sorted(set(adapter.plan.lora_arguments.modules_to_save))
    _write_json(path, config)


def _clean_tokenizer_config(path: Path) -> None:
    config = json.loads(path.read_text())
    for key in ("name_or_path", "is_local", "local_files_only", "trust_remote_code"):
        config.pop(key, None)
    _write_json(path, config)


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
