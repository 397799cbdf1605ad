"""Suggest ids of the catalogue for an unknown id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

#: Minimum similarity of a misspelled name (`difflib` ratio).
_CUTOFF = 0.75
_MAX_SIMILAR = 3
_MAX_LISTED = 20
_MAX_NAME_CHARACTERS = 200
_HOW_TO_GET_OTHERS = "The operator adds base models to the catalogue."
_PREFIXES = ("https://", "http://", "huggingface.co/", "hf.co/", "hub:", "hf:", "models--")


def hint_for(asked: str, entries: Mapping[str, Iterable[str]]) -> str:
    """Return a hint for ``asked``, which is not an id of the catalogue.

    Args:
        asked: The id as the client sent it.
        entries: The ids of the catalogue, each with other public names of its base model, such as
            its hub repository.
    """
    by_name: dict[str, list[str]] = {}
    for entry_id, names in entries.items():
        for name in {v for each in (entry_id, *names) for v in _variants(each)}:
            by_name.setdefault(name, []).append(entry_id)
    wanted = _variants(asked)
    for name in wanted:
        if same := by_name.get(name):
            return f"Did you mean {' or '.join(same)}?"
    near = get_close_matches(wanted[-1], by_name, _MAX_SIMILAR, cutoff=_CUTOFF)
    if similar := list(dict.fromkeys(i for name in near for i in by_name[name])):
        return f"Similar ids are: {', '.join(similar[:_MAX_SIMILAR])}. {_HOW_TO_GET_OTHERS}"
    ids = list(entries)
    more = f" and {len(ids) - _MAX_LISTED} more" if len(ids) > _MAX_LISTED else ""
    return f"Choose one of: {', '.join(ids[:_MAX_LISTED])}{more}. {_HOW_TO_GET_OTHERS}"


def _variants(name: str) -> list[str]:
    """Return the whole name and the part after its last slash, both normalised."""
    text = name[:_MAX_NAME_CHARACTERS].strip().lower()
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    text = text.replace("--", "/").partition("@")[0].strip("/")
    return [_comparable(text), _comparable(text.rpartition("/")[2])]


def _comparable(name: str) -> str:
    """Normalise a name: lower case, with dashes between words, such as ``qwen3-0.6b``."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
