"""Find the files of a hub repository that belong to a split of a dataset.

The rules are those of the ``datasets`` library, without loading scripts: the ``configs`` of the
dataset card decide, or else the names of the files.
https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

_DATA = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather)(\.(gz|xz|bz2|zst))?$")
#: Metadata files that libraries write next to the data.
_NOT_DATA = re.compile(r"(^|/)(\.[^/]*|dataset_infos?\.json|dataset_dict\.json|state\.json)$")
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@ -]*(/[A-Za-z0-9_][A-Za-z0-9._+=@ -]*)*")
_SHARD = re.compile(r"(?:^|/)([A-Za-z0-9._]+?)-\d{5}-of-\d{5}[^/]*$")
#: Names of shards that do not name a split; their directory may name one.
_NO_SPLITS = ("data", "file", "part", "shard")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_NAMED = 20


class SplitNotFoundError(Exception):
    """The repository has no such configuration or split; the message lists the existing ones."""


def split_files(
    names: Iterable[str], card: Mapping[str, Any], config: str | None, split: str
) -> list[str]:
    """Return the files of a split, sorted by name.

    Raises:
        SplitNotFoundError: the repository has no such configuration, split or data files.
    """
    data = sorted(n for n in names if _SAFE.fullmatch(n) and _DATA.search(n))
    data = [name for name in data if not _NOT_DATA.search(name)]
    if not data:
        raise SplitNotFoundError("the repository has no JSON, CSV, TSV, Parquet or Arrow files")
    configs = card.get("configs")
    if isinstance(configs, list) and configs:
        return _of_card(data, _configuration(configs, config), split)
    if config is not None:
        data = [name for name in data if name.startswith(f"{config}/")]
        if not data:
            raise SplitNotFoundError(f"the repository has no configuration {config}")
    return _by_name(data, split)


def _configuration(configs: Sequence[Any], wanted: str | None) -> Mapping[str, Any]:
    known = {str(c.get("config_name", "default")): c for c in configs if isinstance(c, dict)}
    if wanted is not None and wanted in known:
        return known[wanted]
    defaults = [c for name, c in known.items() if c.get("default") is True or name == "default"]
    if wanted is None and (defaults or len(known) == 1):
        return (defaults or list(known.values()))[0]
    listed = ", ".join(list(known)[:_NAMED])
    what = f"no configuration {wanted}" if wanted else "several configurations: choose a config"
    raise SplitNotFoundError(f"the repository has {what}; there are: {listed}")


def _of_card(data: Sequence[str], configuration: Mapping[str, Any], split: str) -> list[str]:
    described = configuration.get("data_files")
    directory = configuration.get("data_dir")
    if isinstance(directory, str):
        data = [name for name in data if name.startswith(f"{directory.strip('/')}/")]
    if described is None:
        return _by_name(data, split)
    if not isinstance(described, list) or not all(isinstance(d, dict) for d in described):
        described = [{"split": "train", "path": described}]
    splits = {str(entry.get("split", "train")): entry.get("path") for entry in described}
    if split not in splits:
        raise _no_split(split, splits)
    paths = splits[split]
    patterns = [str(p) for p in (paths if isinstance(paths, list) else [paths])]
    found = [name for name in data if any(_matches(name, pattern) for pattern in patterns)]
    if not found:
        raise SplitNotFoundError(f"no data file of the repository is {', '.join(patterns)[:200]}")
    return found


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern.replace("**/", "*").removeprefix("./"))


def _by_name(data: Sequence[str], split: str) -> list[str]:
    """Find the files by the names of shards, else by a word in the path.

    Without such names, all files belong to ``train``.
    """
    shards: dict[str, list[str]] = {}
    for name in data:
        if (shard := _SHARD.search(name)) and shard[1] not in _NO_SPLITS:
            shards.setdefault(shard[1], []).append(name)
    if split in shards:
        return shards[split]
    if shards:  # only whole names count: train_sft-00000-of-00001 does not belong to train
        raise _no_split(split, shards)
    words = {**_WORDS, split: _WORDS.get(split, (split,))}
    by_word = {key: [n for n in data if _has_word(n, choices)] for key, choices in words.items()}
    if found := by_word[split]:
        return found
    others = [key for key, names in by_word.items() if names]
    if split == "train" and not others:
        return list(data)
    raise _no_split(split, others)


def _has_word(name: str, words: Iterable[str]) -> bool:
    choices = "|".join(map(re.escape, words))
    return re.search(rf"(^|[/._ -])({choices})([/._ -])", name, re.IGNORECASE) is not None


def _no_split(split: str, known: Iterable[str]) -> SplitNotFoundError:
    listed = ", ".join(dict.fromkeys(known)) or "none"
    return SplitNotFoundError(f"the repository has no split {split}; there are: {listed[:500]}")
