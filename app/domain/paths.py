"""Select the modules of a base model that a spec names: dotted paths, matched as PEFT does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.domain.plan import BaseModelFacts
from app.domain.spec import LoraSpec


def target_paths(lora: LoraSpec, facts: BaseModelFacts) -> list[str]:
    """Return the paths of the modules that LoRA adapts, sorted.

    Modules that are saved in full, and modules inside them, are not adapted.
    """
    if isinstance(lora.target_modules, str):
        paths: Iterable[str] = (
            facts.attention_modules if facts.is_mixture_of_experts else facts.linear_modules
        )
    else:
        paths = [p for name in lora.target_modules for p in matches(name, facts.linear_modules)]
    saved = saved_paths(lora, facts)
    return sorted({path for path in paths if not is_inside(path, saved)})


def saved_paths(lora: LoraSpec, facts: BaseModelFacts) -> list[str]:
    """Return the paths of the modules that are trained and saved in full, sorted, none nested."""
    requested = [p for name in lora.modules_to_save for p in matches(name, facts.modules)]
    return outermost([*facts.new_modules, *requested])


def matches(name: str, modules: Iterable[str]) -> list[str]:
    """Return the module paths that equal ``name`` or end with it after a dot."""
    return [m for m in modules if m == name or m.endswith(f".{name}")]


def is_inside(path: str, owners: Iterable[str]) -> bool:
    """Return whether ``path`` is one of ``owners`` or lies inside one of them."""
    return any(path == owner or path.startswith(f"{owner}.") for owner in owners)


def outermost(paths: Iterable[str]) -> list[str]:
    """Return the paths that do not lie inside another one, sorted and without duplicates."""
    unique = sorted(set(paths))
    return [p for p in unique if not any(p.startswith(f"{other}.") for other in unique)]


def shortest_names(paths: Sequence[str], modules: Iterable[str]) -> list[str]:
    """Return the shortest dotted suffixes that PEFT's suffix matching maps to exactly ``paths``."""
    wanted = set(paths)
    # Number of modules that each suffix matches, and how many of them are wanted.
    matched: dict[str, int] = {}
    matched_wanted: dict[str, int] = {}
    for module in {*modules, *wanted}:
        for suffix in _suffixes(module):
            matched[suffix] = matched.get(suffix, 0) + 1
            matched_wanted[suffix] = matched_wanted.get(suffix, 0) + (module in wanted)
    return sorted(
        {next((s for s in _suffixes(p) if matched[s] == matched_wanted[s]), p) for p in wanted},
    )


def _suffixes(path: str) -> list[str]:
    """Return the dotted suffixes of a path, shortest first."""
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
