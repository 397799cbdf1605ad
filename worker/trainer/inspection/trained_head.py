"""Find a trained reward head in the files of a base model, also under the name of another tool."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import PreTrainedModel

from worker.trainer.inspection.modules import one_output_layers

#: Names of the head in the trainers of reward models: TRL and trlX ``v_head.summary``, OpenRLHF
#: ``value_head`` and ``score``, LLaMA-Factory ``v_head``, DeepSpeed-Chat ``v_head``, others
#: ``reward_head``, ``rm_head``, ``regression_layer``, and encoders ``classifier``.
_HEAD = re.compile(
    r"(^|\.)(scores?|v_head|value_head|reward_head|rm_head|reward_model_head|classifier"
    r"|classification_head|regression_head|regression_layer)\."
)
#: Heads of pretraining tasks.
_OTHER_TASK = re.compile(r"(^|\.)(sop_classifier|discriminator_predictions)\.")
_IN_A_LAYER = re.compile(r"\.\d+\.")
#: Maximum rows of an output layer: a tensor with more rows is another layer of a head.
_MAX_OUTPUTS = 64


@dataclass(frozen=True)
class TrainedHead:
    """The tensors of a base model's files that belong to a head.

    ``tensors`` maps the parameters of the head's output layer to the stored tensors that they can
    start from; it is empty if the head starts random. ``unused`` describes the other tensors that
    look like a head: "score.weight [2, 32]".
    """

    tensors: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def find_trained_head(
    model: PreTrainedModel,
    absent: Collection[str],
    unexpected: Collection[str],
    stored: Mapping[str, list[int]],
) -> TrainedHead:
    """Compare the head of ``model`` with ``stored``, the shapes of the stored tensors by name.

    ``absent`` are the parameters that the files lack, or have in another shape, and ``unexpected``
    the stored tensors that the model lacks. A head under another name is taken over if there is
    exactly one, it is a single layer with one row, and nothing else of the head is absent. A stored
    bias is left out where the model's head has none: it adds the same number to every score.
    """
    layers = one_output_layers(model)
    if len(layers) != 1:
        return TrainedHead()
    path = next(iter(layers))
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    weight, bias = f"{path}.weight", f"{path}.bias"
    needed = [weight] if layer.bias is None else [weight, bias]
    if not set(needed) & set(absent):
        return TrainedHead({name: name for name in needed})
    heads = _heads(stored)
    row = [1, layer.in_features]
    # A layer of one row under a name that is not known may be a head as well.
    unknown = {name for name in unexpected if stored.get(name) == row and not _is_other(name)}
    known = {name for names in heads.values() for name in names if _is_output(stored[name])}
    outputs = sorted(known | unknown)
    fitting = [names[0] for names in heads.values() if [stored[name] for name in names] == [row]]
    if len(fitting) == 1 and set(absent) <= set(needed):
        tensors = {weight: fitting[0]}
        stored_bias = fitting[0].removesuffix("weight") + "bias"
        if bias in needed and stored.get(stored_bias) == [1]:
            tensors[bias] = stored_bias
        rest = [name for name in outputs if name != fitting[0]]
        return TrainedHead(tensors, [f"{name} {stored[name]}" for name in rest])
    used = {name for name, _ in model.named_parameters()} - set(absent)
    return TrainedHead({}, [f"{name} {stored[name]}" for name in outputs if name not in used])


def _heads(stored: Mapping[str, list[int]]) -> dict[str, list[str]]:
    """Return the weights of each stored head by its path; one of several layers has several."""
    found: dict[str, list[str]] = {}
    for name in sorted(stored):
        head = _HEAD.search(name)
        if head and name.endswith("weight") and not _is_other(name[: head.end()]):
            found.setdefault(name[: head.end()], []).append(name)
    return found


def _is_other(name: str) -> bool:
    """Whether a tensor is a part of the backbone, or of a head for another task."""
    return bool(_IN_A_LAYER.search(name) or _OTHER_TASK.search(name))


def _is_output(shape: list[int]) -> bool:
    """Whether a weight can give a few numbers: it has few rows, or is stored flat or transposed."""
    return len(shape) in (1, 2) and (len(shape) == 1 or min(shape) <= _MAX_OUTPUTS)
