"""Find the files of a hub repository that belong to a split of a dataset.

The rules are those of the ``datasets`` library, without loading scripts: the ``configs`` of the
dataset card decide, or else the names of the files.
https://huggingface.co/docs/hub/datasets-data-files-configuration
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

_DATA = re.compile(
    r"\.(jsonl|ndjson|json|csv|tsv|parquet|arrow|feather)(\.(gz|xz|bz2|zst))?$", re.IGNORECASE
)
#: Hidden files and directories, paths that leave the directory, and metadata files that libraries
#: write next to the data.
_NOT_DATA = re.compile(
    r"(^|/)(\.[^/]*(/.*)?|config\.json|dataset_infos?\.json|dataset_dict\.json|state\.json)$|//|^/"
)
_SHARD = re.compile(r"(?:^|/)([A-Za-z0-9._]+?)-\d{5}-of-\d{5}[^/]*$")
#: A shard: everything before its number, its number, how many there are, and the rest of its name.
_NUMBERED = re.compile(r"(.*[-._])(\d{5})-of-(\d{5})(?!\d)(.*)")
#: Names of shards that do not name a split; their directory may name one.
_NO_SPLITS = ("data", "file", "part", "shard")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
#: Characters between the words of a name.
_GAP = "[-._ 0-9]"
_NAMED = 20
#: Longest name of a file or directory in bytes: the hub client appends up to 50.
_MAX_NAME_BYTES = 200


class SplitNotFoundError(Exception):
    """The repository has no such configuration or split, or the split lacks shards, or has a file
    with an unusable name."""


def split_files(
    names: Iterable[str], card: Mapping[str, Any], config: str | None, split: str
) -> list[str]:
    """Return the files of a split, sorted by name.

    Raises:
        SplitNotFoundError: the repository has no such configuration, split or data files, or not
            all shards of the split.
    """
    data = sorted(name for name in names if _DATA.search(name) and not _NOT_DATA.search(name))
    if not data:
        raise SplitNotFoundError("the repository has no JSON, CSV, TSV, Parquet or Arrow files")
    found = _select(data, card, config, split)
    if lacking := _missing_shards(data):
        # A card may name some of the shards only: then the others are not selected either.
        missing = set(_select(sorted({*data, *lacking}), card, config, split)) & lacking
        if missing:
            listed = ", ".join(sorted(missing)[:_NAMED])
            raise SplitNotFoundError(
                f"the repository lacks files of the split: {listed[:1000]}; upload them, or name "
                "the files of the split in the dataset card"
            )
    for name in found:  # a file with such a name is refused, because it would be missing
        if not _is_usable(name):
            raise SplitNotFoundError(f"rename the file {name[:200]!r}: its name cannot be used")
    return found


def _select(
    data: Sequence[str], card: Mapping[str, Any], config: str | None, split: str
) -> list[str]:
    configs = card.get("configs")
    if isinstance(configs, list) and configs:
        return _of_card(data, _configuration(configs, config), split)
    if config is not None and not any(name.startswith(f"{config}/") for name in data):
        raise SplitNotFoundError(f"the repository has no configuration {config}")
    return _by_name(data, split, config or "")


def _missing_shards(data: Iterable[str]) -> set[str]:
    """Return names of shards that the others announce, at most ``_NAMED`` for each series.

    Numbers begin with 0, or with 1 if there is no 0 but the last one.
    """
    series: dict[tuple[str, str], dict[int, str]] = {}
    for name in data:
        if shard := _NUMBERED.fullmatch(name):
            series.setdefault((shard[1], shard[3]), {})[int(shard[2])] = shard[4]
    found: set[str] = set()
    for (stem, total), known in series.items():
        first = int(0 not in known and int(total) in known)
        missing = (n for n in range(first, first + int(total)) if n not in known)
        rest = known[min(known)]
        found.update(f"{stem}{number:05}-of-{total}{rest}" for number in islice(missing, _NAMED))
    return found


def _is_usable(name: str) -> bool:
    is_short = all(
        len(part.encode(errors="replace")) <= _MAX_NAME_BYTES for part in name.split("/")
    )
    # The hub client refuses a colon in the second place: it could name a drive.
    return is_short and name.isprintable() and "\\" not in name and name[1:2] != ":"


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
    directory = directory if isinstance(directory, str) else ""
    if described is None:
        return _by_name(data, split, directory)
    if not isinstance(described, list) or not all(isinstance(d, dict) for d in described):
        described = [{"split": "train", "path": described}]
    splits: dict[str, list[str]] = {}
    for entry in described:
        paths = entry.get("path")
        splits.setdefault(str(entry.get("split", "train")), []).extend(
            map(str, paths if isinstance(paths, list) else [paths])
        )
    if split not in splits:
        raise _no_split(split, splits)
    found: set[str] = set()
    for pattern in splits[split]:
        matching = _matching(data, f"{directory}/{pattern}")
        if not matching:
            raise SplitNotFoundError(f"no data file of the repository is {pattern[:200]}")
        found.update(matching)
    return sorted(found)


def _matching(data: Sequence[str], pattern: str) -> list[str]:
    """Return the names that match a pattern, in which only ``**`` crosses directories."""
    parts: list[str] = []
    for part in pattern.split("/"):
        if "**" in part:
            parts += ["**"] if part.strip("*") == "" else ["**", re.sub(r"\*+", "*", part)]
        elif part not in ("", "."):
            parts.append(part)
    return [name for name in data if _is_match(name.split("/"), parts)]


def _is_match(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether names of directories and a file match the parts of a pattern.

    Follows all possible matches at once: the pattern is the publisher's, and backtracking could
    take forever.
    """
    places = _further({0}, parts)
    for name in names:
        there = {at for at in places if at < len(parts) and parts[at] == "**"}
        there |= {at + 1 for at in places if at < len(parts) and fnmatchcase(name, parts[at])}
        places = _further(there, parts)
    return len(parts) in places


def _further(places: set[int], parts: Sequence[str]) -> set[int]:
    """Add the places behind each ``**``, which also matches no directory at all."""
    found = set(places)
    for at, part in enumerate(parts):
        if at in found and part == "**":
            found.add(at + 1)
    return found


def _by_name(data: Sequence[str], split: str, directory: str) -> list[str]:
    """Find the files in a directory by the names of shards, else by a word in the path.

    Without such names, all files belong to ``train``. The name of the directory itself says
    nothing about splits.
    """
    root = f"{directory.removeprefix('./').strip('/')}/" if directory.strip("./") else ""
    data = [name for name in data if name.startswith(root)]
    if not data:
        raise SplitNotFoundError(f"the repository has no data files in {directory[:200]}")
    shards: dict[str, list[str]] = {}
    for name in data:
        if (shard := _SHARD.search(name)) and shard[1] not in _NO_SPLITS:
            shards.setdefault(shard[1], []).append(name)
    if split in shards:
        return shards[split]
    if shards:  # only whole names count: train_sft-00000-of-00001 does not belong to train
        raise _no_split(split, shards)
    words = {**_WORDS, split: _WORDS.get(split, (split,))}
    named = {name: _splits_of(name.removeprefix(root), words) for name in data}
    if found := [name for name, splits in named.items() if split in splits]:
        return found
    others = [key for key in words if any(key in splits for splits in named.values())]
    if split == "train" and not others:
        return list(data)
    raise _no_split(split, others)


def _splits_of(name: str, words: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the splits that the directories of a file name, or else the file's own name."""
    folder, _, file = name.rpartition("/")
    found: set[str] = set()
    for text in (folder, file):
        found = found or {
            split
            for split, choices in words.items()
            if any(_has_word(part, choices) for part in text.split("/"))
        }
    return found


def _has_word(name: str, words: Iterable[str]) -> bool:
    choices = "|".join(map(re.escape, words))
    return re.search(rf"(^|{_GAP})({choices})({_GAP}|$)", name, re.IGNORECASE) is not None


def _no_split(split: str, known: Iterable[str]) -> SplitNotFoundError:
    listed = ", ".join(dict.fromkeys(known)) or "none"
    return SplitNotFoundError(f"the repository has no split {split}; there are: {listed[:500]}")
