"""Merge an adapter into its base model and save one ordinary model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from app.domain.lifecycle import FailureCode, Phase
from app.domain.progress import Packaged, PhaseChanged
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.base_tokenizer import differs_from_file, load_base_tokenizer
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.loading import DeviceConfig, device_config_for, load_base
from worker.reward_model.packaged_adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SUMMARY
from worker.trainer.export.adapter_files import CARD, LOCK
from worker.trainer.inspection.base_model_files import check_base_model_unchanged

MERGED = "merged"


def run(order: WorkOrder, channel: Channel) -> None:
    """Save the merged model and send ``packaged``.

    Raises:
        TrainerError: invalid_spec for an adapter on a quantised base, whose weights cannot
            represent the sum (scores of about 10 moved by up to 0.25), and for a tokenizer that
            transformers would not load for a whole model; model_changed if the base model differs
            from the one that the adapter was trained on.
    """
    if order.adapter is None:
        raise TrainerError(FailureCode.INTERNAL, "the order to merge has no adapter")
    adapter, merged = Path(order.adapter), Path(MERGED)
    summary = json.loads((adapter / SUMMARY).read_text())
    if summary["quantization"] != "none":
        raise TrainerError(
            FailureCode.INVALID_SPEC,
            f"this adapter was trained on a {summary['quantization']} base model and cannot be "
            "merged exactly; load it with PEFT on the same quantised base model",
        )
    check_base_model_unchanged(order, summary["base_model_sha256"])
    channel.send(PhaseChanged(phase=Phase.SAVING))
    _save_merged_model(order, adapter, merged, summary)
    for path in sorted(adapter.iterdir()):
        if path.name not in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, LOCK, SUMMARY):
            shutil.copyfile(path, merged / path.name)
    _check_tokenizer(merged)
    summary = summary | {"is_merged": True, "vllm_reasons": [], "vllm_servable": False}
    (merged / SUMMARY).write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    channel.send(
        Packaged(
            directory=merged.name,
            files=file_entries(merged),
            summary=summary,
        )
    )


def _save_merged_model(
    order: WorkOrder, adapter: Path, merged: Path, summary: dict[str, Any]
) -> None:
    device = "cpu" if order.plan is None else device_config_for(order.plan).device
    device_config = DeviceConfig(device, summary["dtype"] == "bfloat16")
    base = load_base(order.model_dir, device_config, summary["head_modules"])
    base.config.get_text_config().pad_token_id = summary["pad_token_id"]
    with torch.no_grad():
        model = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    model.config.get_text_config().use_cache = True
    model.save_pretrained(str(merged))


def _check_tokenizer(merged: Path) -> None:
    """Reject a tokenizer that transformers would replace in a directory of a whole model."""
    if differs_from_file(load_base_tokenizer(merged, from_file=False), merged):
        raise TrainerError(
            FailureCode.INVALID_SPEC,
            "for a merged model transformers would build another tokenizer than the one that this "
            "adapter was trained with, and score other tokens; load the adapter with PEFT",
        )
