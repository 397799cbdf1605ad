"""Base and adapter as one ordinary model, where adding them up is exact enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import PeftModel

from app.domain.lifecycle import FailureCode, Phase
from app.domain.progress import Packaged, PhaseChanged
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model import base_tokenizer
from worker.reward_model.errors import TrainerError
from worker.reward_model.file_digests import check_unchanged, file_entries
from worker.reward_model.loading import DeviceConfig, load_base
from worker.trainer.export.adapter_files import CARD, LOCK, SUMMARY
from worker.trainer.export.reload_check import verified_certificate
from worker.trainer.training.checkpoints import CONFIG, WEIGHTS

MERGED = "merged"


def run(order: WorkOrder, channel: Channel) -> None:
    """Write the merged model, have a fresh process score the probes, say ``packaged``.

    Raises:
        TrainerFailure: invalid_spec for an adapter of a quantised base, whose weights cannot take
            the sum up (scores of about 10 moved by up to 0.25), or with a tokenizer that
            transformers would not give to a whole model; score_mismatch;
            model_changed when the base is not what the adapter was trained on.
    """
    if order.adapter is None:
        raise TrainerError(FailureCode.INTERNAL, "an order to merge needs an adapter")
    adapter, merged = Path(order.adapter), Path(MERGED)
    summary = json.loads((adapter / SUMMARY).read_text())
    if summary["quantization"] != "none":
        raise TrainerError(
            FailureCode.INVALID_SPEC,
            f"this adapter was trained on a {summary['quantization']} base model and cannot be "
            "merged exactly; load it with PEFT on the same quantised base",
        )
    check_unchanged(order, summary["base_model_sha256"])
    channel.say(PhaseChanged(phase=Phase.SAVING))
    numerics = DeviceConfig("cpu", summary["dtype"] == "bfloat16")
    base = load_base(order.model_dir, numerics, summary["head_modules"])
    base.config.get_text_config().pad_token_id = summary["pad_token_id"]
    with torch.no_grad():
        model = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    model.config.get_text_config().use_cache = True
    model.save_pretrained(str(merged))
    for path in sorted(adapter.iterdir()):
        if path.name not in (CONFIG, WEIGHTS, CARD, LOCK, SUMMARY):
            shutil.copyfile(path, merged / path.name)
    if base_tokenizer.differs_from_file(base_tokenizer.load(merged, from_file=False), merged):
        raise TrainerError(
            FailureCode.INVALID_SPEC,
            "of a merged model transformers would build another tokenizer than the one that this "
            "adapter was trained with, and score other tokens; load the adapter with PEFT",
        )
    summary = summary | {"is_merged": True, "vllm_reasons": [], "vllm_servable": False}
    (merged / SUMMARY).write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n")
    channel.say(PhaseChanged(phase=Phase.VERIFYING))
    certificate = verified_certificate(merged, None, device="cpu", threads=order.threads)
    channel.say(
        Packaged(
            directory=merged.name,
            files=file_entries(merged),
            certificate=certificate,
            summary=summary,
        )
    )
