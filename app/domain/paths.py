"""Which modules a spec means: dotted paths, as PEFT matches them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.domain.plan import BaseModelFacts
from app.domain.spec import LoraSpec


def target_paths(lora: LoraSpec, facts: BaseModelFacts) -> list[str]:
    """The exact modules that get a LoRA branch, sorted; never a module that is saved in full."""
    if isinstance(lora.target_modules, str):
        paths: Iterable[str] = (
            facts.attention_modules if facts.is_mixture_of_experts else facts.linear_modules
        )
    else:
        paths = [p for name in lora.target_modules for p in matches(name, facts.linear_modules)]
    saved = saved_paths(lora, facts)
    return sorted({path for path in paths if not is_inside(path, saved)})


def saved_paths(lora: LoraSpec, facts: BaseModelFacts) -> list[str]:
    """The modules that are trained and saved in full, sorted, none inside another."""
    asked = [p for name in lora.modules_to_save for p in matches(name, facts.modules)]
    paths = sorted({*facts.new_modules, *asked})
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in paths)]


def matches(name: str, modules: Iterable[str]) -> list[str]:
    """The module paths that ``name`` means: the whole path, or its last dotted parts."""
    return [m for m in modules if m == name or m.endswith(f".{name}")]


def is_inside(path: str, owners: Iterable[str]) -> bool:
    """Whether ``path`` is one of ``owners`` or in one."""
    return any(path == owner or path.startswith(f"{owner}.") for owner in owners)


def shortest_names(paths: Sequence[str], modules: Iterable[str]) -> list[str]:
    """The shortest dotted suffixes that PEFT's suffix matching turns into exactly ``paths``."""
    wanted = set(paths)
    # How many modules each suffix names, and how many of those are wanted.
    named: dict[str, int] = {}
    hit: dict[str, int] = {}
    for module in {*modules, *wanted}:
        for suffix in _suffixes(module):
            named[suffix] = named.get(suffix, 0) + 1
            hit[suffix] = hit.get(suffix, 0) + (module in wanted)
    return sorted(
        {next((s for s in _suffixes(p) if named[s] == hit[s]), p) for p in wanted},
    )


def _suffixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]
