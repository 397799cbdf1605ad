# Generated from ../_async/datasets.py by `make client-models`. Do not edit.
"""Datasets: upload preference pairs and look at them; ``client.datasets``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import httpx

from plaudit._calls import Call, parse, path
from plaudit._files import Wanted
from plaudit._part_files import ReadOptions, part_files, read_query
from plaudit._sync.concurrency import blocking
from plaudit._sync.dataset_imports import DatasetImports
from plaudit._sync.dataset_uploads import DatasetUploads
from plaudit._sync.downloads import download_file
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
from plaudit._uploads import OnBytes, Source, Upload, UploadedDataset, read_source
from plaudit.models import DatasetPreview, DatasetRead, DatasetReport

#: The service checks the pairs while they stream, and the last of them after the last byte.
CHECK_SECONDS = 600.0


class Datasets:
    """Preference pairs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.uploads = DatasetUploads(transport)
        self.imports = DatasetImports(transport)

    def upload(
        self,
        source: Source,
        *,
        name: str | None = None,
        format: str | None = None,
        resume: str | None = None,
        on_bytes: OnBytes | None = None,
        **options: Unpack[ReadOptions],
    ) -> UploadedDataset:
        """Send preference data to the service, which checks every row.

        The same bytes again give the dataset that is there already. A directory, a list of files
        and a large file of JSON lines are sent in parts. If that is interrupted, call it again with
        ``resume``: parts that arrived are not sent again.

        Args:
            source: a path (JSON lines, JSON, CSV, TSV, Parquet, Arrow, also compressed), a
                directory or a list of such files, rows (mappings), or a ``datasets.Dataset``.
            name: for people; default: the name of the file or directory.
            format: ``jsonl``, ``csv``, ``parquet`` and so on, where a name does not tell.
            resume: ``up_…``, an upload in parts that was interrupted; the error names it.
            on_bytes: called with the size of each chunk before it is sent.
            options: how the rows are read: ``columns``, ``labels``, ``ignore_columns``,
                ``on_invalid``, ``chat_template_kwargs``.

        Raises:
            InvalidRequestError: rows are refused; ``errors`` names the first bad lines.
            TooLargeError: the operator's limit.
        """
        if (parts := blocking(lambda: part_files(source, format))) is not None:
            if resume is None:
                default = Path(source).name if isinstance(source, str | os.PathLike) else None
                resume = (self.uploads.create(name or default, **options)).id
            return self.uploads.send_all(resume, parts, on_bytes)
        upload = blocking(lambda: read_source(source, on_bytes))
        query = {"name": upload.default_name if name is None else name, "format": format}
        return self._send(upload, query | read_query(options))

    def _send(self, upload: Upload, query: dict[str, object]) -> UploadedDataset:
        length = {} if upload.size is None else {"Content-Length": str(upload.size)}
        call = Call(
            "POST",
            "/v1/datasets",
            query,
            chunks=upload.chunks,
            headers={"Content-Type": upload.content_type, **length},
            is_repeatable=upload.is_repeatable,
            read_seconds=CHECK_SECONDS,
        )
        response = self._transport.send(call)
        dataset = parse(UploadedDataset, response)
        return dataset.marked(is_new=response.status_code == httpx.codes.CREATED)

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[DatasetRead]:
        """Datasets, newest first; all pages, as they are iterated."""
        call = Call("GET", "/v1/datasets", {"limit": page_size, "after": after})
        return Items(self._transport, call, DatasetRead)

    def get(self, dataset_id: str) -> DatasetRead:
        """A dataset."""
        call = Call("GET", path("/v1/datasets/{}", dataset_id))
        return parse(DatasetRead, self._transport.send(call))

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset that no unfinished job uses."""
        self._transport.send(Call("DELETE", path("/v1/datasets/{}", dataset_id)))

    def preview(self, dataset_id: str, n: int = 5) -> DatasetPreview:
        """The first ``n`` pairs (1 to 100), in the form that jobs train on."""
        call = Call("GET", path("/v1/datasets/{}/preview", dataset_id), {"n": n})
        return parse(DatasetPreview, self._transport.send(call))

    def report(
        self, dataset_id: str, base_model: str, *, max_length: int | None = None
    ) -> DatasetReport:
        """Lengths in tokens of a base model, duplicates, contradictions, overlong pairs and more.

        A worker makes it the first time.
        """
        call = Call(
            "GET",
            path("/v1/datasets/{}/report", dataset_id),
            {"base_model": base_model, "max_length": max_length},
        )
        return parse(DatasetReport, self._transport.send(call))

    def download(
        self, dataset_id: str, file: str | os.PathLike[str], *, overwrite: bool = False
    ) -> Path:
        """The pairs as canonical JSONL; resumes a partial download and checks the sha256.

        Raises:
            DirectoryError: the file exists with other bytes, and ``overwrite`` is false.
            DownloadError: the bytes are not those that the service promised.
        """
        dataset = self.get(dataset_id)
        target = Path(file)
        wanted = Wanted(target.name, dataset.bytes, dataset.sha256)
        address = path("/v1/datasets/{}/content", dataset_id)
        download_file(self._transport, address, wanted, target.parent, overwrite=overwrite)
        return target
