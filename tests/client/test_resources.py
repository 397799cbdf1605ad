"""Datasets, adapters and other resources through the client, against the real service."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from sqlalchemy import Engine, select, update

from app.auth.scopes import Scope
from app.core.database import transaction
from app.core.settings import Settings
from app.models import BlobChunk, Job, StoredFile
from plaudit import (
    APIError,
    ConflictError,
    DirectoryError,
    DownloadError,
    ForbiddenError,
    ImportFailedError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    _part_files,
)
from tests.client.calls import ASKED_FIRST, CALLS, Ids, operations
from tests.client.conftest import Connect
from tests.site import Site
from tests.world import BASE_MODEL, World, pairs

ROWS = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(5)]
FILES = {
    "README.md": b"# Card",
    "adapter_model.safetensors": Random(0).randbytes(300_000),
    "reward_model.json": b'{"format": 1}',
}


def jsonl(path: Path) -> None:
    path.write_bytes(pairs(5))


def zipped(path: Path) -> None:
    path.write_bytes(gzip.compress(pairs(5), mtime=0))


def csv(path: Path) -> None:
    rows = [",".join(row.values()) for row in ROWS]
    path.write_text("\n".join(["prompt,chosen,rejected", *rows]))


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write", "source_format"),
    [
        ("pairs.jsonl", jsonl, "jsonl"),
        ("pairs.jsonl.gz", zipped, "jsonl"),
        ("pairs.CSV", csv, "csv"),
        ("pairs.parquet", parquet, "parquet"),
    ],
)
def test_file_is_uploaded_by_its_name(
    client: Any, tmp_path: Path, name: str, write: Callable[[Path], None], source_format: str
) -> None:
    write(tmp_path / name)
    sizes: list[int] = []
    dataset = client.datasets.upload(tmp_path / name, on_bytes=sizes.append)
    assert (dataset.name, dataset.source_format) == (name, source_format)
    assert (dataset.pair_count, dataset.is_new) == (5, True)
    assert sum(sizes) == (tmp_path / name).stat().st_size
    again = client.datasets.upload(str(tmp_path / name), name="another")
    assert (again.id, again.name, again.is_new) == (dataset.id, name, False)
    assert [found.id for found in client.datasets.list()] == [dataset.id]


@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, datasets.Dataset.from_list, lambda rows: (dict(row) for row in rows)],
    ids=["list", "tuple", "iterator", "Dataset", "generator"],
)
def test_rows_are_uploaded(client: Any, make: Callable[[Any], Any]) -> None:
    dataset = client.datasets.upload(make(ROWS), name="rows")
    assert (dataset.pair_count, dataset.name) == (5, "rows")
    numbered = [{**row, "line": line} for line, row in enumerate(ROWS, 1)]
    assert client.datasets.preview(dataset.id, 2).data == numbered[:2]


def test_conversations_of_a_dataset_with_gaps_are_uploaded(client: Any) -> None:
    """A datasets.Dataset has None where a row has no such column."""
    rows = [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "chosen": [{"role": "assistant", "content": f"Hello {i}"}],
            "rejected": [{"role": "assistant", "content": "No"}],
            "slice": None if i else "a",
        }
        for i in range(3)
    ]
    dataset = client.datasets.upload(datasets.Dataset.from_list(rows))
    assert (dataset.pair_count, dataset.slices) == (3, {"a": 1})


def test_bad_lines_are_named(client: Any) -> None:
    rows = [*ROWS, {"chosen": "a"}, {"chosen": "b", "rejected": "b", "prompt": "p"}]
    with pytest.raises(InvalidRequestError) as caught:
        client.datasets.upload(rows)
    assert caught.value.code == "invalid_dataset"
    assert all(error.pointer.startswith(("/lines/6", "/lines/7")) for error in caught.value.errors)
    assert list(client.datasets.list()) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"chosen": "a", "rejected": "b"}, ["a", "b"]], "Row 2 is a list"),
        ([{"chosen": float("nan")}], "Row 1 cannot be encoded as JSON"),
        ([{"chosen": "a", "rejected": {1, 2}}], "Row 1 cannot be encoded as JSON"),
        (b"bytes", "not bytes"),
        (7, "not int"),
        ({"train": ROWS}, "Upload one of its splits"),
    ],
)
def test_what_are_no_rows_is_refused_before_it_is_stored(
    client: Any, rows: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        client.datasets.upload(rows)
    assert list(client.datasets.list()) == []


SHARDS: dict[str, Callable[[Path], None]] = {
    "train-2.jsonl.gz": lambda path: path.write_bytes(gzip.compress(pairs(2, " second"))) and None,
    "train-10.parquet": parquet,
    "train-1.jsonl": lambda path: path.write_bytes(pairs(3, " first")) and None,
    "README.md": lambda path: path.write_text("# shards") and None,
    "dataset_info.json": lambda path: path.write_text("{}") and None,
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    directory = tmp_path / "shards"
    directory.mkdir()
    for name, write in SHARDS.items():
        write(directory / name)
    return directory


def test_directory_of_shards_becomes_one_dataset(
    client: Any, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_part_files, "LARGE_BYTES", 100)
    monkeypatch.setattr(_part_files, "PART_BYTES", 100)  # train-1.jsonl becomes two parts
    sizes: list[int] = []
    dataset = client.datasets.upload(shards, on_bytes=sizes.append)
    assert (dataset.name, dataset.pair_count, dataset.is_new) == ("shards", 10, True)
    assert sum(sizes) == dataset.upload_bytes
    prompts = [row["prompt"] for row in client.datasets.preview(dataset.id, 10).data]
    assert prompts == [
        *(f"Question {i} first?" for i in range(3)),
        *(f"Question {i} second?" for i in range(2)),
        *(f"q{i}" for i in range(5)),
    ]
    files = [shards / name for name in ("train-1.jsonl", "train-2.jsonl.gz", "train-10.parquet")]
    assert client.datasets.upload(files).id == dataset.id


@pytest.mark.parametrize("name", ["extra.zip", "extra.tar.gz", "extra.TGZ", "extra.7z"])
def test_archive_among_shards_is_refused_before_anything_is_sent(
    client: Any, shards: Path, name: str
) -> None:
    (shards / name).write_bytes(b"PK\x03\x04")
    for source in (shards, [*sorted(shards.glob("*[0-9].jsonl")), shards / name]):
        with pytest.raises(ValueError, match=f"{name} is an archive: unpack it"):
            client.datasets.upload(source)
    assert list(client.datasets.uploads.list()) == []
    with pytest.raises(InvalidRequestError, match="the file is a zip archive"):
        client.datasets.upload(shards / name)


def test_interrupted_upload_is_continued(client: Any, shards: Path) -> None:
    good = (shards / "train-10.parquet").read_bytes()
    (shards / "train-10.parquet").write_bytes(b"PAR1, cut")
    with pytest.raises(InvalidRequestError) as caught:
        client.datasets.upload(shards)
    (note,) = caught.value.__notes__
    upload_id = note.split("'")[1]
    before = client.datasets.uploads.get(upload_id).parts
    (shards / "train-10.parquet").write_bytes(good)
    assert client.datasets.upload(shards, resume=upload_id).pair_count == 10
    assert [part.created_at for part in before] != []
    (found,) = client.datasets.uploads.list()
    assert (found.id, found.status) == (upload_id, "finished")


def test_import_is_waited_for(client: Any, world: World, engine: Engine) -> None:
    dataset_id = world.upload()["id"]
    for ending in ({"result": {"dataset_id": dataset_id}, "status": "succeeded"},
                   {"failure_code": "source_not_found", "status": "failed"}):  # fmt: skip
        queued = client.datasets.imports.create(source="hub:acme/pairs", split="test")
        with transaction(engine) as session:
            session.execute(update(Job).where(Job.id == queued.id).values(ending))
        if "result" in ending:
            assert client.datasets.imports.wait(queued.id) == dataset_id
            continue
        with pytest.raises(ImportFailedError, match="source_not_found") as caught:
            client.datasets.imports.wait(queued.id)
        assert caught.value.hint
    assert len(list(client.datasets.imports.list())) == 2


def test_rows_are_read_as_the_caller_says(client: Any) -> None:
    rows = [{"q": f"q{i}", "a": "good", "b": "bad", "note": f"n{i}"} for i in range(3)]
    same = {"q": "q", "a": "same", "b": "same", "note": ""}
    dataset = client.datasets.upload(
        [*rows, same],
        columns={"prompt": "q", "chosen": "a", "rejected": "b"},
        ignore_columns=["note"],
        on_invalid="skip",
    )
    assert (dataset.pair_count, dataset.ignored_columns) == (3, ["note"])
    assert [(each.code, each.count) for each in dataset.skipped] == [("identical_pair", 1)]


def test_lone_surrogate_is_refused_with_its_line(client: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.datasets.upload([*ROWS, {"prompt": "p", "chosen": "\ud800", "rejected": "b"}])
    assert caught.value.errors[0].pointer.startswith("/lines/6")


def test_file_that_is_not_there_is_named(client: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        client.datasets.upload(tmp_path / "none.jsonl")


def test_file_over_the_limit_is_refused_before_it_is_sent(
    connect: Connect, settings: Settings, key: str, site: Site, tmp_path: Path
) -> None:
    small = Site(settings.model_copy(update={"max_upload_bytes": 1000}))
    small.start()
    try:
        (tmp_path / "pairs.jsonl").write_bytes(pairs(40))
        with pytest.raises(TooLargeError, match="1000 bytes"):
            connect(small.url, key).datasets.upload(tmp_path / "pairs.jsonl")
    finally:
        small.stop()


def test_dataset_is_brought_home_and_deleted(client: Any, tmp_path: Path) -> None:
    dataset = client.datasets.upload(ROWS)
    target = client.datasets.download(dataset.id, tmp_path / "deep" / "pairs.jsonl")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows == [{**row, "line": line} for line, row in enumerate(ROWS, 1)]
    client.datasets.download(dataset.id, target)  # exists already
    target.write_text("other")
    with pytest.raises(DirectoryError):
        client.datasets.download(dataset.id, target)
    client.datasets.download(dataset.id, target, overwrite=True)
    assert target.stat().st_size == dataset.bytes
    client.datasets.delete(dataset.id)
    with pytest.raises(NotFoundError):
        client.datasets.get(dataset.id)


def test_dataset_in_use_is_not_deleted(client: Any, world: World) -> None:
    job = world.submit()
    with pytest.raises(ConflictError) as caught:
        client.datasets.delete(job["spec"]["train_dataset"])
    assert caught.value.code == "dataset_in_use"


@pytest.fixture
def adapter_id(world: World) -> str:
    world.submit()
    return world.publish(world.claim(), FILES)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty directory."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_adapter_is_found_and_brought_home(client: Any, adapter_id: str, home: Path) -> None:
    assert [adapter.id for adapter in client.adapters.list()] == [adapter_id]
    adapter = client.adapters.download(adapter_id, home / "deep" / "home")
    assert contents(home / "deep" / "home") == FILES
    assert adapter.to_dict() == client.adapters.get(adapter_id).to_dict()
    assert list(client.adapters.list(job_id=f"job_{'0' * 32}")) == []


@pytest.mark.parametrize("held", [b"", FILES["README.md"][:3], b"#### wrong", b"much too long"])
def test_partial_download_is_continued_whatever_it_holds(
    client: Any, adapter_id: str, home: Path, held: bytes
) -> None:
    sha256 = client.adapters.get(adapter_id).files[0].sha256
    (home / f"README.md.{sha256[:12]}.part").write_bytes(held)
    (home / "reward_model.json").write_bytes(FILES["reward_model.json"])
    client.adapters.download(adapter_id, home)
    assert contents(home) == FILES


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "adapter_model.safetensors.part"])
def test_directory_with_other_files_is_refused_unless_they_may_be_overwritten(
    client: Any, adapter_id: str, home: Path, name: str
) -> None:
    (home / name).write_text("mine")
    with pytest.raises(DirectoryError, match=name):
        client.adapters.download(adapter_id, home)
    assert contents(home) == {name: b"mine"}
    client.adapters.download(adapter_id, home, overwrite=True)
    assert contents(home) == {name: b"mine"} | FILES


def test_damaged_bytes_are_not_kept(client: Any, adapter_id: str, world: World, home: Path) -> None:
    with transaction(world.engine) as session:
        stored = select(StoredFile.blob_id).where(
            StoredFile.owner_id == adapter_id, StoredFile.name == "README.md"
        )
        chunk = BlobChunk.blob_id == session.scalar(stored)
        session.execute(update(BlobChunk).where(chunk).values(data=b"# Cart"))
    with pytest.raises(DownloadError, match=r"README.md: its sha256 is"):
        client.adapters.download(adapter_id, home / "files")
    assert not contents(home / "files")
    with pytest.raises(DownloadError):
        client.adapters.download_archive(adapter_id, home / "all.tar")
    assert os.listdir(home) == ["files"]


def test_merge_is_asked_for_once(client: Any, adapter_id: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.adapters.get_merge(adapter_id)
    assert caught.value.code == "merge_not_found"
    merge = client.adapters.merge(adapter_id)
    assert (merge.status, merge.source_adapter_id) == ("queued", adapter_id)
    assert client.adapters.merge(adapter_id).id == merge.id
    assert client.adapters.get_merge(adapter_id).id == merge.id
    client.adapters.delete(adapter_id)
    with pytest.raises(NotFoundError):
        client.adapters.get(adapter_id)


def test_service_shows_what_it_has_and_does(client: Any, world: World) -> None:
    world.submit()
    (waiting,) = client.queue.list()
    assert (waiting.position, waiting.reason) == (1, "no_worker")
    assert list(client.workers.list()) == []
    assert BASE_MODEL in [entry.id for entry in client.base_models.list()]
    assert client.base_models.get(BASE_MODEL).is_inspected is False
    assert client.health().status == "ok"
    assert client.readiness().workers == 0
    assert client.explain_problem("job_not_found").status == 404
    assert "plaudit_" in client.metrics()


def test_keys_are_made_and_revoked(client: Any, connect: Connect, site: Site) -> None:
    made = client.api_keys.create(name="reader", scopes=["jobs:read"])
    reader = connect(site.url, made.secret)
    assert list(reader.jobs.list()) == []
    with pytest.raises(ForbiddenError):
        reader.api_keys.create(name="more", scopes=["admin"])
    assert "reader" in [key.name for key in client.api_keys.list()]
    client.api_keys.revoke(made.id)
    acts = [act.action for act in client.audit.list(page_size=1)]
    assert acts[:2] == ["api_key.revoke", "api_key.create"]


def test_wrong_key_is_told(connect: Connect, site: Site) -> None:
    client = connect(site.url, "plk_wrong")
    with pytest.raises(UnauthorizedError) as caught:
        client.queue.list().page()
    assert caught.value.code == "unauthorized"
    assert "plk_wrong" not in str(caught.value)


def test_key_without_the_scope_is_told_by_every_operation(
    connect: Connect, site: Site, key_for: Callable[..., str], tmp_path: Path
) -> None:
    client = connect(site.url, key_for("acme", Scope.ARTIFACTS_READ))
    open_to_all = {"health", "readiness", "metrics", "explain_problem"}
    able = {"list_adapters", "get_adapter", "get_merge", "get_push"}
    able |= {"download_file", "download_archive"}
    found = {name: refusal(client, name, tmp_path) for name in CALLS}
    forbidden = {name for name, error in found.items() if error is ForbiddenError}
    assert forbidden == CALLS.keys() - open_to_all - able


def test_nothing_that_is_not_there_is_found(client: Any, tmp_path: Path) -> None:
    named = [n for n, (_, _, op) in operations().items() if "404" in op["responses"] and n in CALLS]
    assert {name: refusal(client, name, tmp_path) for name in named} == dict.fromkeys(
        named, NotFoundError
    )
    assert len(named) > 20
    assert set(ASKED_FIRST) <= set(named)


def refusal(client: Any, name: str, directory: Path) -> type[Exception] | None:
    """Return the type of the error that a call with unknown ids raises."""
    try:
        CALLS[name](client, Ids(directory))
    except APIError as error:
        return type(error)
    return None
