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
    r"|classification_head|regression_head|regression_layer)(\.(summary|out_proj|linear))?\.weight$"
)
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
    model: PreTrainedModel, absent: Collection[str], stored: Mapping[str, list[int]]
) -> TrainedHead:
    """Compare the head of ``model`` with ``stored``, the shapes of the stored tensors by name.

    ``absent`` are the parameters that the files lack, or have in another shape. A head under
    another name is used if there is exactly one, it has one row, and no other part of the head is
    absent. A stored bias is ignored if the model's head has none, because it adds the same number
    to every score.
    """
    layers = one_output_layers(model)
    heads = sorted(
        name
        for name, shape in stored.items()
        if _HEAD.search(name) and not _IN_A_LAYER.search(name)
        if len(shape) == 2 and shape[0] <= _MAX_OUTPUTS
    )
    if len(layers) != 1:
        return TrainedHead()
    path = next(iter(layers))
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    weight, bias = f"{path}.weight", f"{path}.bias"
    needed = [weight] if layer.bias is None else [weight, bias]
    if not set(needed) & set(absent):
        return TrainedHead({name: name for name in needed})
    fitting = [name for name in heads if stored[name] == [1, layer.in_features]]
    if len(fitting) == 1 and set(absent) <= set(needed):
        tensors = {weight: fitting[0]}
        stored_bias = fitting[0].removesuffix("weight") + "bias"
        if bias in needed and stored.get(stored_bias) == [1]:
            tensors[bias] = stored_bias
        rest = [name for name in heads if name != fitting[0]]
        return TrainedHead(tensors, [f"{name} {stored[name]}" for name in rest])
    used = {name for name, _ in model.named_parameters()} - set(absent)
    return TrainedHead({}, [f"{name} {stored[name]}" for name in heads if name not in used])
