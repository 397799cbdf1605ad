"""Which modules of a classifier start random, and which LoRA may adapt.

All of it works on a model on the meta device: names, shapes and types, never a weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from app.domain.paths import is_inside, outermost
from worker.reward_model.errors import unsupported

#: PEFT trains and saves every module whose path ends in one of these with task type SEQ_CLS,
#: as a plain suffix: "pre_classifier" is one of them (peft/peft_model.py, issue 3755).
PEFT_HEAD_SUFFIXES = ("classifier", "score")

_ATTENTION = re.compile(r"attn|attention")
#: Experts and what chooses among them (a mixture of attention heads has both inside attention).
_EXPERT = re.compile(r"experts?$|^(router|gate)$")
_NUMBERED_BLOCK = re.compile(r"(^|\.)\d+(\.|$)")


def new_modules(model: PreTrainedModel, absent: Iterable[str]) -> list[str]:
    """Modules that must be trained and saved, as full dotted paths, none inside another.

    The owners of ``absent`` (parameter keys that the checkpoint lacks or has in another shape),
    what PEFT saves by itself, and the layer that gives the one score: a base that is already a
    one-label classifier lacks nothing, and its head is trained all the same.

    Raises:
        TrainerFailure: the checkpoint lacks parts of the backbone, or PEFT's suffix matching
            would unfreeze other modules as well.
    """
    absent = sorted(absent)
    _refuse_damaged_backbone(model, absent)
    named = dict(model.named_modules())
    by_itself = {p for p in named if p.endswith(PEFT_HEAD_SUFFIXES) and _has_parameters(named[p])}
    owners = {key.rpartition(".")[0] for key in absent} | _one_output_layers(model)
    if "" in owners:
        raise unsupported(
            f"{type(model).__name__} keeps new parameters outside any module "
            f"({', '.join(k for k in absent if '.' not in k)}), which an adapter cannot save; "
            "use another architecture"
        )
    found = outermost(owners | by_itself)
    for path in found:
        others = [p for p in named if p.endswith(path) and not is_inside(p, found)]
        if others:
            raise unsupported(
                f"saving '{path}' would also unfreeze {', '.join(others[:5])}, whose names end "
                "the same; use another architecture"
            )
    return found


def refuse_ignored(model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Weights inside a layer of the model that it has no place for: a Qwen called a Llama.

    ``unexpected`` are the checkpoint's keys that transformers passes over with a warning. Heads,
    layers for several tokens at once and buffers of old are passed over rightly.

    Raises:
        TrainerFailure: model_unsupported, with the keys.
    """
    named = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."

    def belongs(key: str) -> bool:
        if not _NUMBERED_BLOCK.search(key):
            return False
        owner, _, name = key.rpartition(".")
        if isinstance(named.get(owner), nn.Linear | Conv1D):
            return name == "bias"
        return name == "weight" and owner not in named and owner.rpartition(".")[0] in named

    ignored = sorted(k for k in unexpected if belongs(k) or belongs(prefix + k))
    if ignored:
        raise unsupported(
            f"{type(model).__name__} has no place for {len(ignored)} of the checkpoint's tensors: "
            f"{', '.join(ignored[:5])}; its config.json does not describe its weights"
        )


def linear_modules(model: PreTrainedModel, new: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Linear layers of the text backbone's blocks that LoRA may adapt: path → (inputs, outputs).

    Never a new module, never a vision or audio tower. Only layers of numbered blocks: a pooler or
    a contact head beside them is often there and not used (BigBird, ESM). In a mixture of experts
    attention only: an expert sees few tokens, and PEFT turns every other "gate_proj", "up_proj"
    and "down_proj" there into the fused experts, also those of a dense layer (peft issue 3711).
    """
    new = list(new)
    towers = _text_towers(model)
    found = {
        path: _shape(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and _NUMBERED_BLOCK.search(path)
        # The output of nn.MultiheadAttention: its weight is read, it is never called.
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and not is_inside(path, new)
        and (towers is None or is_inside(path, towers))
    }
    if not is_mixture_of_experts(model):
        return found
    kept = [p for p in attention_modules(found) if not any(_EXPERT.search(s) for s in p.split("."))]
    return {path: found[path] for path in kept}


def attention_modules(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` inside an attention block, sorted."""
    return sorted(p for p in paths if any(_ATTENTION.search(part) for part in p.split(".")[:-1]))


def is_mixture_of_experts(model: nn.Module) -> bool:
    """Whether a layer chooses among experts: by module name, or 3-d weights that are no filters."""
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "experts":
            return True
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if any(p.ndim == 3 and p.shape[0] > 1 for p in module.parameters(recurse=False)):
            return True
    return False


def parameters_by_module(model: nn.Module) -> dict[str, int]:
    """Every module path → number of parameters in it (shared ones counted once a module)."""
    return {
        path: sum(p.numel() for p in module.parameters())
        for path, module in model.named_modules()
        if path
    }


def _refuse_damaged_backbone(model: PreTrainedModel, absent: list[str]) -> None:
    """A layer or an embedding that is missing is a broken file, not a head to train."""
    embedding = model.get_input_embeddings()
    words = {n for n, m in model.named_modules() if m is embedding}
    lost = [k for k in absent if _NUMBERED_BLOCK.search(k) or k.rpartition(".")[0] in words]
    if lost:
        raise unsupported(
            f"the checkpoint lacks {len(lost)} tensors of the backbone, or has them in another "
            f"shape: {', '.join(lost[:5])}; use a complete checkpoint of {type(model).__name__}"
        )


def _one_output_layers(model: PreTrainedModel) -> set[str]:
    prefix = model.base_model_prefix
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1
        if not is_inside(path, [prefix])
    }


def _text_towers(model: PreTrainedModel) -> list[str] | None:
    """Paths of the text model inside a multimodal one; None when all of it is text."""
    text = model.config.get_text_config()
    if type(text) is type(model.config):
        return None
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and type(module.config) is type(text)
    ]


def _shape(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, Conv1D)
    return int(module.nx), int(module.nf)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
