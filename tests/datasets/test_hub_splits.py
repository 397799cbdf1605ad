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
OF_CARD = ["a/1.jsonl", "a/2.jsonl", "b/train.jsonl.gz", "b/test.jsonl.gz", "c/d/more.csv"]


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
    ],
)
def test_what_is_not_there_is_named(
    names: list[str], card: dict[str, Any], config: str | None, split: str, says: str
) -> None:
    with pytest.raises(SplitNotFoundError) as caught:
        split_files(names, card, config, split)
    assert says in str(caught.value)
