"""The files of a repository that belong to a split."""

from __future__ import annotations

from typing import Any

import pytest

from app.datasets.hub_splits import SplitNotFoundError, split_files

SHARDS = [
    "README.md",
    ".gitattributes",
    "data/train_prefs-00001-of-00002.parquet",
    "data/train_prefs-00000-of-00002-3ab.parquet",
    "data/test_prefs-00000-of-00001.parquet",
    "data/train_sft-00000-of-00001.parquet",
    "dataset_info.json",
]
CARD: dict[str, Any] = {
    "configs": [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": ["a/*.jsonl", "b/train.jsonl.gz"]},
                {"split": "extra", "path": "**/more.csv"},
                {"split": "gone", "path": "none/*"},
            ],
        },
        {"config_name": "other", "data_dir": "b"},
        {"config_name": "one", "data_files": "a/2.jsonl"},
    ]
}
#: Patterns as people write them.
PATTERNS: dict[str, Any] = {
    "configs": [
        {"config_name": "flat", "data_files": "*.jsonl"},
        {"config_name": "deep", "data_files": [{"split": "train", "path": "**/x?.jsonl"}]},
        {"config_name": "all", "data_files": "./en/**"},
        {"config_name": "inside", "data_dir": "en", "data_files": "train.jsonl"},
        {"config_name": "named", "data_dir": "./en/"},
        {
            "config_name": "twice",
            "data_files": [
                {"split": "train", "path": "x1.jsonl"},
                {"split": "train", "path": "en/train.jsonl"},
            ],
        },
        {"config_name": "missing", "data_files": ["x1.jsonl", "x9.jsonl"]},
        {"config_name": "slow", "data_files": "**/a*/" * 40 + "none.jsonl"},
    ]
}
OF_PATTERNS = ["en/test.jsonl", "en/train.jsonl", "en/us/x2.jsonl", "x1.jsonl"]
ODD_NAMES = ["Train (1).JSONL", "a#b, 50%?.jsonl", "données/日本.jsonl"]
OF_CARD = ["a/1.jsonl", "a/2.jsonl", "b/train.jsonl.gz", "b/test.jsonl.gz", "c/d/more.csv"]


FROM_ONE = [f"train-{number:05}-of-00002.jsonl" for number in (1, 2)]
#: A series of shards of which the last two are missing.
GAPS = [f"data/train-{number:05}-of-00004-ab.parquet" for number in (0, 1)] + [
    "data/test-00000-of-00001.parquet"
]
#: A card that names some of the shards on purpose, and one that names all of them.
FEW: dict[str, Any] = {
    "configs": [
        {"config_name": "default", "data_files": "data/train-0000[01]-of-*"},
        {"config_name": "one", "data_files": "c4.00001-of-00003.json.gz"},
    ]
}
ALL: dict[str, Any] = {"configs": [{"config_name": "default", "data_files": "data/train-*"}]}


@pytest.mark.parametrize(
    ("names", "card", "config", "split", "files"),
    [
        (SHARDS, {}, None, "train_prefs",
         ["data/train_prefs-00000-of-00002-3ab.parquet",
          "data/train_prefs-00001-of-00002.parquet"]),
        (SHARDS, {}, None, "test_prefs", ["data/test_prefs-00000-of-00001.parquet"]),
        (["pairs.jsonl", "notes.txt"], {}, None, "train", ["pairs.jsonl"]),
        (["train.jsonl", "dev.jsonl"], {}, None, "validation", ["dev.jsonl"]),
        (["en/train/1.csv", "en/test/1.csv"], {}, None, "train", ["en/train/1.csv"]),
        (["en/train.csv", "de/train.csv"], {}, "de", "train", ["de/train.csv"]),
        (["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"], {}, None, "test",
         ["test/data-00000-of-00001.arrow"]),
        (OF_CARD, CARD, None, "train", ["a/1.jsonl", "a/2.jsonl", "b/train.jsonl.gz"]),
        (OF_CARD, CARD, "default", "extra", ["c/d/more.csv"]),
        (OF_CARD, CARD, "other", "test", ["b/test.jsonl.gz"]),
        (OF_CARD, CARD, "one", "train", ["a/2.jsonl"]),
        (["train1.csv", "train2.csv", "test1.csv"], {}, None, "train",
         ["train1.csv", "train2.csv"]),
        (["test/of_train.csv", "train/1.csv"], {}, None, "train", ["train/1.csv"]),
        (["dev/train.csv", "dev/test.csv"], {}, "dev", "test", ["dev/test.csv"]),
        (["config.json", "pairs.jsonl"], {}, None, "train", ["pairs.jsonl"]),
        (ODD_NAMES, {}, None, "train", ["Train (1).JSONL"]),
        (ODD_NAMES[1:], {}, None, "train", ODD_NAMES[1:]),
        (OF_PATTERNS, PATTERNS, "flat", "train", ["x1.jsonl"]),
        (OF_PATTERNS, PATTERNS, "deep", "train", ["en/us/x2.jsonl", "x1.jsonl"]),
        (OF_PATTERNS, PATTERNS, "all", "train", OF_PATTERNS[:3]),
        (OF_PATTERNS, PATTERNS, "inside", "train", ["en/train.jsonl"]),
        (OF_PATTERNS, PATTERNS, "named", "test", ["en/test.jsonl"]),
        (OF_PATTERNS, PATTERNS, "twice", "train", ["en/train.jsonl", "x1.jsonl"]),
        (FROM_ONE, {}, None, "train", FROM_ONE),
        (GAPS, {}, None, "test", ["data/test-00000-of-00001.parquet"]),
        (GAPS, FEW, None, "train", GAPS[:2]),
        (["c4.00001-of-00003.json.gz"], FEW, "one", "train", ["c4.00001-of-00003.json.gz"]),
    ],
)  # fmt: skip
def test_files_of_a_split_are_found(
    names: list[str], card: dict[str, Any], config: str | None, split: str, files: list[str]
) -> None:
    assert split_files(names, card, config, split) == files


@pytest.mark.parametrize(
    ("names", "card", "config", "split", "says"),
    [
        (SHARDS, {}, None, "train", "there are: test_prefs, train_prefs, train_sft"),
        (["README.md"], {}, None, "train", "no JSON, CSV"),
        (["../etc/train.jsonl", "/train.jsonl", "a/../train.jsonl"], {}, None, "train", "no JSON"),
        (["pairs.jsonl"], {}, None, "test", "no split test; there are: none"),
        (["pairs.jsonl"], {}, "en", "train", "no configuration en"),
        (OF_CARD, CARD, "none", "train", "there are: default, other, one"),
        (OF_CARD, {"configs": CARD["configs"][1:]}, None, "train", "choose a config"),
        (OF_CARD, CARD, None, "test", "there are: train, extra, gone"),
        (OF_CARD, CARD, None, "gone", "no data file of the repository is none/*"),
        (["dev/train.csv", "dev/test.csv"], {}, "dev", "validation", "there are: train, test"),
        (OF_PATTERNS, PATTERNS, "missing", "train", "no data file of the repository is x9.jsonl"),
        (["a" + "/a" * 60 + "/train.jsonl"], PATTERNS, "slow", "train", "no data file"),
        (GAPS, {}, None, "train", "train-00002-of-00004-ab.parquet, data/train-00003-of-00004-ab"),
        (GAPS, ALL, None, "train", "lacks files of the split: data/train-00002-of-00004-ab.par"),
        (FROM_ONE[1:], {}, None, "train", "the split: train-00001-of-00002.jsonl; upload them"),
        (["train-00005-of-99999.csv"], {}, None, "train", "train-00004-of-99999.csv, train-00006"),
        (["a/data-00001-of-00002.arrow"], {}, None, "train", "a/data-00000-of-00002.arrow"),
        (["pairs.jsonl", "more\\pairs.jsonl"], {}, None, "train", "'more\\\\pairs.jsonl'"),
        (["pairs.jsonl", "more\npairs.jsonl"], {}, None, "train", "rename the file"),
        (["pairs.jsonl", "x" * 201 + ".jsonl"], {}, None, "train", "rename the file"),
    ],
)
def test_what_is_not_there_is_named(
    names: list[str], card: dict[str, Any], config: str | None, split: str, says: str
) -> None:
    with pytest.raises(SplitNotFoundError) as caught:
        split_files(names, card, config, split)
    assert says in str(caught.value)
