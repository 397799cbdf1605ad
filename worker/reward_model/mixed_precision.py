"""Mixed precision for models in bfloat16: a float32 head, and no redundant casts of LoRA inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.nn.functional import linear

from app.domain.paths import is_inside


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, also under autocast.

    In bfloat16, rewards near 3 have a resolution of 0.016, which causes ties in evaluations.
    """

    @classmethod
    def of(cls, layer: nn.Linear) -> Float32Linear:
        """Return a layer with the same parameters, in float32."""
        made = cls(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        made.load_state_dict({n: p.float() for n, p in layer.named_parameters()}, assign=True)
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to ``input`` in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.float(), self.weight, self.bias)


def use_float32_head(model: nn.Module, head_modules: Collection[str]) -> None:
    """Compute the linear layers of the head in float32."""
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and is_inside(path, head_modules):
            model.set_submodule(path, Float32Linear.of(module))


@contextmanager
def without_adapter_casts(model: nn.Module) -> Iterator[None]:
    """Disable PEFT's casts of LoRA inputs. Use it only under autocast.

    PEFT casts every input to float32 and autocast casts it back, to the same bits. DoRA and dropout
    use the float32 input in other ways, so they keep their casts.
    """
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    is_plain = all(
        not getattr(c, "use_dora", False) and not getattr(c, "lora_dropout", 0)
        for c in configs.values()
    )
    with disable_input_dtype_casting(model, active=is_plain and bool(configs)):
        yield
