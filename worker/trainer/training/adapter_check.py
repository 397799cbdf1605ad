"""Check the adapter against the plan: after it was added, and in the saved file."""

from __future__ import annotations

from collections.abc import Collection

from peft import PeftModel
from peft.tuners.lora import LoraLayer

from app.domain.lifecycle import FailureCode
from app.domain.paths import is_inside
from app.domain.plan import TrainingPlan
from worker.reward_model.errors import TrainerError
from worker.trainer.training.lora import base_parameter_name, trainable_parameters

_PREFIX = "base_model.model."


def check_trainable_parameters(model: PeftModel, plan: TrainingPlan) -> None:
    """Check that LoRA, the planned modules and all new modules train, and nothing else.

    PEFT reports neither a name that matches nothing nor one that matches too much.

    Raises:
        TrainerError: internal, with the parameters that differ from the plan.
    """
    saved = plan.lora_arguments.modules_to_save
    names = {name for name, _ in trainable_parameters(model)}
    lora_layers = {
        n.removeprefix(_PREFIX) for n, m in model.named_modules() if isinstance(m, LoraLayer)
    }
    stray = {n for n in names if "lora_" not in n and not is_inside(base_parameter_name(n), saved)}
    frozen = {
        n
        for n, _ in model.get_base_model().named_parameters()
        if is_inside(base_parameter_name(n), plan.head_modules)
        and "original_module" not in n
        and _PREFIX + n not in names
    }
    saved_with_lora = {path for path in lora_layers if is_inside(path, saved)}
    count = sum(p.numel() for _, p in trainable_parameters(model))
    problems = [
        f"{what}: {', '.join(sorted(found)[:5])}"
        for what, found in (
            ("trainable, but not in the plan", stray),
            ("part of the head, but frozen", frozen),
            ("adapted by LoRA, although trained in full", saved_with_lora),
        )
        if found
    ]
    if count != plan.trainable_parameters:
        problems.append(
            f"{count} parameters are trainable, the plan has {plan.trainable_parameters}"
        )
    if problems:
        raise TrainerError(
            FailureCode.INTERNAL, "the adapter differs from the plan: " + "; ".join(problems)
        )


def check_saved_tensors(keys: Collection[str], model: PeftModel) -> None:
    """Check that the saved file, whose tensor names are ``keys``, has exactly the trained tensors.

    Raises:
        TrainerError: internal, with the missing and the additional tensors.
    """
    trained = {_saved_name(name) for name, _ in trainable_parameters(model)}
    missing, additional = sorted(trained - set(keys)), sorted(set(keys) - trained)
    if missing or additional:
        raise TrainerError(
            FailureCode.INTERNAL,
            f"the saved adapter lacks {len(missing)} trained tensors ({', '.join(missing[:5])}) "
            f"and has {len(additional)} others ({', '.join(additional[:5])})",
        )


def _saved_name(name: str) -> str:
    """Return PEFT's name of a trained parameter in the file: without the adapter's name."""
    plain = name.replace(".modules_to_save.default", "").replace(".default", "")
    return plain.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")
