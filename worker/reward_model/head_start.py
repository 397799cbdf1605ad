"""Set the initial weights of the reward head of a loaded base model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from app.domain.plan import TrainingPlan
from worker.reward_model.errors import unsupported_model
from worker.reward_model.stored_weights import head_files


def start_head(model: PreTrainedModel, model_dir: str, plan: TrainingPlan) -> None:
    """Copy tensors of the base model's files into the head, or initialise a trained head again.

    torch's random state is used only if the plan resets a trained head.

    Raises:
        TrainerError: model_unsupported if a planned tensor is not in the files.
    """
    if plan.head is None:
        return
    if plan.head.is_reset:
        for path in plan.head_modules:
            _reset(model.get_submodule(path), model.config.get_text_config())
    renamed = {name: stored for name, stored in plan.head.tensors.items() if name != stored}
    for name, stored in renamed.items():
        parameter = model.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(_read(Path(model_dir), stored).to(parameter))


def _read(model_dir: Path, name: str) -> torch.Tensor:
    for path in reversed(head_files(model_dir)):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - not a mapping
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor
    raise unsupported_model(f"the base model's files lack {name}, from which the head would start")


@torch.no_grad()
def _reset(head: nn.Module, config: object) -> None:
    """Initialise linear layers as transformers does, and other layers as torch does."""
    deviation = getattr(config, "initializer_range", None) or 0.02
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
