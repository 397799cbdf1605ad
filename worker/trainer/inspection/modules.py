"""Find the modules of a classifier that start random, and those that LoRA may adapt.

Everything here works on a model on the meta device: names, shapes and types, no weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from app.domain.paths import is_inside, outermost
from worker.reward_model.errors import unsupported_model

#: With task type SEQ_CLS, PEFT trains and saves every module whose path ends in one of these. It
#: compares plain suffixes: "pre_classifier" matches as well (peft/peft_model.py, issue 3755).
PEFT_HEAD_SUFFIXES = ("classifier", "score")

_ATTENTION = re.compile(r"attn|attention")
#: Experts and routers; a mixture of attention heads has both inside attention.
_EXPERT = re.compile(r"experts?$|^(router|gate)$")
_NUMBERED_BLOCK = re.compile(r"(^|\.)\d+(\.|$)")


def new_modules(model: PreTrainedModel, absent: Iterable[str]) -> list[str]:
    """Return the modules to train and save, as full dotted paths, none inside another.

    These are the owners of ``absent`` (keys of parameters that the base model's files lack or have
    in another shape), the modules that PEFT saves by itself, and the layer that gives the score. A
    base model that is already a one-output classifier lacks nothing; its head is trained as well.

    Raises:
        TrainerError: model_unsupported when parts of the backbone are absent, or when PEFT's suffix
            matching would unfreeze other modules as well.
    """
    absent = sorted(absent)
    _check_backbone(model, absent)
    named = dict(model.named_modules())
    saved_by_peft = {
        p for p in named if p.endswith(PEFT_HEAD_SUFFIXES) and _has_parameters(named[p])
    }
    owners = {key.rpartition(".")[0] for key in absent} | one_output_layers(model)
    if "" in owners:
        raise unsupported_model(
            f"{type(model).__name__} has new parameters outside of any module "
            f"({', '.join(k for k in absent if '.' not in k)}), which an adapter cannot save; "
            "use another architecture"
        )
    found = outermost(owners | saved_by_peft)
    for path in found:
        others = [p for p in named if p.endswith(path) and not is_inside(p, found)]
        if others:
            raise unsupported_model(
                f"saving '{path}' would also unfreeze {', '.join(others[:5])}, because PEFT "
                "compares the ends of module names; use another architecture"
            )
    return found


def check_no_ignored_weights(model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Reject a model whose layers have weights that the architecture lacks, such as a Qwen model
    named Llama.

    ``unexpected`` are the keys that transformers ignores with a warning. Other heads, layers for
    multi-token prediction and obsolete buffers may be ignored.

    Raises:
        TrainerError: model_unsupported, with the keys.
    """
    named = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."

    def belongs_to_layer(key: str) -> bool:
        if not _NUMBERED_BLOCK.search(key):
            return False
        owner, _, name = key.rpartition(".")
        if isinstance(named.get(owner), nn.Linear | Conv1D):
            return name == "bias"
        return name == "weight" and owner not in named and owner.rpartition(".")[0] in named

    ignored = sorted(k for k in unexpected if belongs_to_layer(k) or belongs_to_layer(prefix + k))
    if ignored:
        raise unsupported_model(
            f"{type(model).__name__} would ignore {len(ignored)} tensors of the base model: "
            f"{', '.join(ignored[:5])}; its config.json does not describe its weights"
        )


def linear_modules(model: PreTrainedModel, new: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return the linear layers that LoRA may adapt: path → (inputs, outputs).

    New modules and vision or audio towers are left out. So are layers outside of numbered blocks: a
    pooler or a contact head may exist without being used (BigBird, ESM). In a mixture of experts
    only attention is adapted: an expert sees few tokens, and PEFT redirects every other
    "gate_proj", "up_proj" and "down_proj" to the fused experts, including those of dense layers
    (peft issue 3711).
    """
    new = list(new)
    towers = _text_towers(model)
    found = {
        path: _shape(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and _NUMBERED_BLOCK.search(path)
        # The output projection of nn.MultiheadAttention: its weight is read, it is never called.
        and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
        and not is_inside(path, new)
        and (towers is None or is_inside(path, towers))
    }
    if not is_mixture_of_experts(model):
        return found
    kept = [p for p in attention_modules(found) if not any(_EXPERT.search(s) for s in p.split("."))]
    return {path: found[path] for path in kept}


def attention_modules(paths: Iterable[str]) -> list[str]:
    """Return the members of ``paths`` that are inside an attention block, sorted."""
    return sorted(p for p in paths if any(_ATTENTION.search(part) for part in p.split(".")[:-1]))


def is_mixture_of_experts(model: nn.Module) -> bool:
    """Whether the model has experts: a module of that name, or 3-d weights outside convolutions."""
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "experts":
            return True
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        if any(p.ndim == 3 and p.shape[0] > 1 for p in module.parameters(recurse=False)):
            return True
    return False


def parameters_by_module(model: nn.Module) -> dict[str, int]:
    """Return every module path → number of parameters in it (shared ones once per module)."""
    return {
        path: sum(p.numel() for p in module.parameters())
        for path, module in model.named_modules()
        if path
    }


def _check_backbone(model: PreTrainedModel, absent: list[str]) -> None:
    """Reject absent layers and embeddings: they indicate damaged files, not a new head."""
    embedding = model.get_input_embeddings()
    embeddings = {name for name, module in model.named_modules() if module is embedding}
    lost = [k for k in absent if _NUMBERED_BLOCK.search(k) or k.rpartition(".")[0] in embeddings]
    if lost:
        raise unsupported_model(
            f"the base model's files lack {len(lost)} tensors of the backbone, or have them in "
            f"another shape: {', '.join(lost[:5])}; use a complete model of type "
            f"{type(model).__name__}"
        )


def one_output_layers(model: PreTrainedModel) -> set[str]:
    """Return the paths of the linear layers outside the backbone that give one number."""
    prefix = model.base_model_prefix
    return {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 1
        if not is_inside(path, [prefix])
    }


def _text_towers(model: PreTrainedModel) -> list[str] | None:
    """Return the paths of the text model in a multimodal one; None when all of it is text."""
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
