"""Load a packaged adapter or a merged model for scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from worker.reward_model.loading import DeviceConfig, load_classifier
from worker.reward_model.truncation import truncate_left

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: File with the settings that a scoring client needs in addition to ``adapter_config.json``.
SUMMARY = "reward_model.json"


@dataclass(frozen=True)
class AdapterWeights:
    """Configuration and tensors of an adapter that is not part of a model yet."""

    config: PeftConfig
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, directory: Path, device: str) -> AdapterWeights:
        """Read an adapter's files. Any thread may call it.

        Half precision becomes float32, as when PEFT loads an adapter.
        """
        tensors = load_peft_weights(str(directory), device=device)
        return cls(
            PeftConfig.from_pretrained(str(directory)),
            {name: _in_float32(tensor) for name, tensor in tensors.items()},
        )


def _in_float32(tensor: Tensor) -> Tensor:
    """Return a copy that does not depend on the file, which the loader maps into memory."""
    is_half = tensor.dtype in (torch.bfloat16, torch.float16)
    return tensor.to(torch.float32 if is_half else tensor.dtype, copy=True)


def load_packaged(
    directory: Path, base_dir: Path | None, summary: Mapping[str, Any], device: str
) -> nn.Module:
    """Load the adapter in ``directory`` on its base model, or a merged model without a base model.

    ``summary`` is the content of the directory's ``reward_model.json``. Weights that the files lack
    are initialised at random; a comparison of the probes' scores detects them.
    """
    device_config = DeviceConfig(device, summary["dtype"] == "bfloat16", summary["quantization"])
    model, _ = load_classifier(
        str(base_dir or directory),
        device_config,
        summary["head_modules"],
        ignore_mismatched_sizes=base_dir is not None,
    )
    model.config.get_text_config().pad_token_id = summary["pad_token_id"]
    return model if base_dir is None else PeftModel.from_pretrained(model, str(directory))


def encode_rendered(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], summary: Mapping[str, Any]
) -> list[list[int]]:
    """Return the token ids of rendered texts, truncated as in training."""
    encoded = tokenizer(
        list(texts),
        add_special_tokens=summary["add_special_tokens"],
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    # Absent in adapters of earlier versions.
    if summary.get("overlong") != "truncate_left":
        return list(encoded["input_ids"])
    kept, max_length = summary["kept_tokens"], summary["max_length"]
    return [truncate_left(ids, kept=kept, max_length=max_length) for ids in encoded["input_ids"]]
