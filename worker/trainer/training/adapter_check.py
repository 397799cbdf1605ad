"""Is the adapter what the plan says? Asked after wrapping, and again of the saved file."""

from __future__ import annotations

from collections.abc import Collection

from peft import PeftModel
from peft.tuners.lora import LoraLayer

from app.domain.lifecycle import FailureCode
from app.domain.paths import is_inside
from app.domain.plan import TrainingPlan
from worker.reward_model.errors import TrainerError
from worker.reward_model.loading import plain_name, trainable

_PREFIX = "base_model.model."


def check_wrapped(model: PeftModel, plan: TrainingPlan) -> None:
    """Every new module trains and will be saved, and nothing else but LoRA and what was asked.

    PEFT reports neither a name that matches nothing nor one that matches too much.

    Raises:
        TrainerFailure: internal, with what is trained too much, too little or not as planned.
    """
    saved = [str(path) for path in _list(plan.lora["modules_to_save"])]
    names = {name for name, _ in trainable(model)}
    adapted = {
        n.removeprefix(_PREFIX) for n, m in model.named_modules() if isinstance(m, LoraLayer)
    }
    stray = {n for n in names if "lora_" not in n and not is_inside(plain_name(n), saved)}
    frozen = {
        n
        for n, _ in model.get_base_model().named_parameters()
        if is_inside(plain_name(n), plan.head_modules)
        and "original_module" not in n
        and _PREFIX + n not in names
    }
    wrapped = {path for path in adapted if is_inside(path, saved)}
    counted = sum(p.numel() for _, p in trainable(model))
    wrong = [
        f"{what}: {', '.join(sorted(found)[:5])}"
        for what, found in (
            ("trained although nobody asked", stray),
            ("part of the head, and frozen", frozen),
            ("adapted although it is trained in full", wrapped),
        )
        if found
    ]
    if counted != plan.trainable_parameters:
        wrong.append(f"{counted} parameters train, the plan has {plan.trainable_parameters}")
    if wrong:
        raise TrainerError(
            FailureCode.INTERNAL, "the adapter is not as planned: " + "; ".join(wrong)
        )


def check_saved(keys: Collection[str], model: PeftModel) -> None:
    """The saved file holds exactly what was trained; ``keys`` are its tensors' names.

    Raises:
        TrainerFailure: internal, with the tensors that are missing or too many.
    """
    trained = {_saved_name(name) for name, _ in trainable(model)}
    missing, more = sorted(trained - set(keys)), sorted(set(keys) - trained)
    if missing or more:
        raise TrainerError(
            FailureCode.INTERNAL,
            f"the saved adapter lacks {len(missing)} trained tensors ({', '.join(missing[:5])}) "
            f"and has {len(more)} others ({', '.join(more[:5])})",
        )


def _saved_name(name: str) -> str:
    """What PEFT calls a trained parameter in the file: without the adapter's name."""
    plain = name.replace(".modules_to_save.default", "").replace(".default", "")
    return plain.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
