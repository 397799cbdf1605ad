"""Rules for the LoRA part of a spec, given the base model."""

from __future__ import annotations

from collections.abc import Iterator

from app.domain.paths import is_inside, matches, saved_paths, target_paths
from app.domain.plan import BaseModelFacts
from app.domain.spec import LoraSpec
from app.domain.spec_problems import SpecProblem

#: Names of reward heads in other architectures.
_HEAD_NAMES = frozenset(
    ["score", "classifier", "classification_head", "v_head", "value_head", "reward_head", "lm_head"]
)


def lora_problems(lora: LoraSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    """Yield every violated rule."""
    yield from _target_problems(lora, facts)
    for i, name in enumerate(lora.modules_to_save):
        yield from _saved_problems(f"/lora/modules_to_save/{i}", name, facts)
    targets = target_paths(lora, facts)
    if not targets and not isinstance(lora.target_modules, list):
        yield SpecProblem(
            "/lora/modules_to_save",
            "nothing_to_adapt",
            f"modules_to_save leaves no linear layer of {facts.architecture} for LoRA to adapt",
            "List fewer modules in modules_to_save.",
        )
    smallest = min((min(facts.linear_modules[path]) for path in targets), default=lora.r)
    if lora.r > smallest:
        yield SpecProblem(
            "/lora/r",
            "rank_too_large",
            f"rank {lora.r} exceeds the smallest dimension ({smallest}) of the adapted layers",
            f"Use at most {smallest}.",
        )
    if lora.init == "orthogonal" and lora.r % 2:
        yield SpecProblem(
            "/lora/r",
            "rank_odd",
            f"orthogonal initialisation needs an even rank; found {lora.r}",
            f"Use {lora.r + 1}, or choose another init.",
        )


def _target_problems(lora: LoraSpec, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    """Check that each name matches a layer that LoRA can adapt; PEFT silently ignores others."""
    if isinstance(lora.target_modules, str):
        return
    leaves = ", ".join(sorted({p.rsplit(".", 1)[-1] for p in facts.linear_modules}))
    hint = f"The linear layers of this model are: {leaves}."
    saved = saved_paths(lora, facts)
    for i, name in enumerate(lora.target_modules):
        loc = f"/lora/target_modules/{i}"
        hits = matches(name, facts.linear_modules)
        others = matches(name, facts.modules)
        if any(not is_inside(path, saved) for path in hits):
            continue
        if any(is_inside(path, facts.new_modules) for path in others):
            yield SpecProblem(
                loc,
                "head_as_target",
                f"'{name}' is part of the reward head, which is trained in full and not by LoRA",
                "Remove it: the reward head is always trained and saved.",
            )
        elif hits:
            yield SpecProblem(
                loc,
                "target_saved_in_full",
                f"'{name}' is trained in full because of modules_to_save, so LoRA cannot adapt it",
                "List it in only one of the two fields.",
            )
        elif others:
            kind = "a mixture of experts" if facts.is_mixture_of_experts else "this model"
            yield SpecProblem(
                loc,
                "target_not_adaptable",
                f"'{name}' of {facts.architecture} is not a layer that LoRA can adapt in {kind}",
                hint,
            )
        else:
            yield SpecProblem(
                loc,
                "target_matches_nothing",
                f"'{name}' matches no linear layer of {facts.architecture}",
                hint,
            )


def _saved_problems(loc: str, name: str, facts: BaseModelFacts) -> Iterator[SpecProblem]:
    hits = matches(name, facts.modules)
    hint = "Give the full dotted path of one module."
    if not hits and name.rpartition(".")[2] in _HEAD_NAMES:
        yield SpecProblem(
            loc,
            "head_always_saved",
            f"{facts.architecture} has no module '{name}'; its reward head is "
            f"{', '.join(sorted(facts.new_modules))}",
            "Remove it: the reward head is always trained and saved.",
        )
        return
    if len(hits) != 1:
        yield SpecProblem(
            loc,
            "module_ambiguous" if hits else "module_matches_nothing",
            f"'{name}' matches {len(hits)} modules of {facts.architecture}",
            hint,
        )
        return
    path = hits[0]
    # PEFT matches plain suffixes: "norm" would also unfreeze every "…layernorm".
    known = [path, *facts.new_modules]  # the head is saved anyway
    also = [m for m in facts.modules if m.endswith(path) and not is_inside(m, known)]
    if also:
        yield SpecProblem(
            loc,
            "module_ambiguous",
            f"saving '{path}' would also unfreeze {also[0]}, because PEFT matches by suffix",
            "Remove it, or list a module that contains it.",
        )
    if not facts.modules[path]:
        yield SpecProblem(loc, "module_empty", f"'{path}' has no trainable parameters", hint)
    children = {m[len(path) + 1 :].split(".")[0] for m in facts.modules if m.startswith(f"{path}.")}
    if children and all(child.isdigit() for child in children):
        yield SpecProblem(
            loc,
            "module_is_a_list",
            f"'{path}' is a list of {len(children)} modules, which PEFT cannot save as one module",
            f"List its members instead: '{path}.0' and so on.",
        )
