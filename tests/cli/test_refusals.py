"""Messages of refused requests do not repeat themselves."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.datasets.test_archives import ARCHIVES
from tests.world import World, pairs

NO_TEXT = b'{"prompt": "q", "chosen": [{"role": "assistant"}], "rejected": "b"}\n'
UPLOADS = {
    "one.jsonl": pairs(2) + NO_TEXT,
    "several.jsonl": pairs(2) + NO_TEXT * 3,
    "many.jsonl": NO_TEXT * 25,
    "mixed.jsonl": pairs(2) + NO_TEXT + b"x\n" + b'{"chosen": "a", "rejected": "a"}\n',
    "table.jsonl": b'"prompt","chosen","rejected"\n"p","a","b"\n',
    "archive.jsonl": b"PK\x03\x04" + bytes(100),
    "empty.jsonl": b"",
    "header.csv": b"chosen,reply\na,b\n",
    "lines.parquet": pairs(3),
}


def said_twice(text: str) -> list[str]:
    """Return the messages and hints that are in the text more than once."""
    parts = re.split(r"; |\. |\.?\n|: ", text)
    return [part for part, count in Counter(parts).items() if count > 1 and len(part) > 15]


@pytest.mark.parametrize("name", UPLOADS)
def test_refused_upload_says_each_thing_once(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(UPLOADS[name])
    done = run("datasets", "upload", path)
    assert done.exit_code == 5
    assert said_twice(done.stderr) in ([], ["found null"])
    assert done.stderr.count("Nothing was stored.") == 1


def test_refused_upload_is_called_by_its_real_type(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_bytes(UPLOADS["table.jsonl"])
    first, second = run("datasets", "upload", path).stderr.splitlines()
    assert first == "line 1: the file is CSV, not JSONL. Nothing was stored."
    assert "text/csv" in second


@pytest.mark.parametrize("name", ["zip", "tar.gz", "tar.xz", "7z", "rar5", "xlsx"])
def test_archive_is_refused_by_its_content(run: Run, tmp_path: Path, name: str) -> None:
    content, description = ARCHIVES[name]
    path = tmp_path / f"pairs.{name}"
    path.write_bytes(content)
    done = run("datasets", "upload", path)
    assert done.exit_code == 5
    assert f"the file is {description}. Nothing was stored." in done.stderr


def test_archive_among_shards_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(pairs(2))
    (tmp_path / "b.tar.gz").write_bytes(ARCHIVES["tar.gz"][0])
    done = run("datasets", "upload", tmp_path)
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "b.tar.gz is an archive: unpack it, and upload the files inside." in said
    assert not said.endswith("..")


def test_names_of_other_tools_are_told_with_the_field_that_is_meant(
    run: Run, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(world.spec() | {"rank": 8, "num_train_epochs": 1}))
    done = run("jobs", "submit", path)
    assert done.exit_code == 5
    for pointer in ("/lora/r", "/training/epochs"):
        assert done.stderr.count(f"Use {pointer}, ") == 1


def test_repository_of_the_hub_is_told_the_id_that_is_meant(
    run: Run, world: World, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(world.spec() | {"base_model": "Qwen/Qwen3-0.6B"}))
    done = run("jobs", "submit", path)
    assert done.exit_code == 5
    assert done.stderr.count("Did you mean qwen3-0.6b?") == 1
