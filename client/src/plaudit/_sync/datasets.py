# Generated from ../_async/datasets.py by `make client-models`. Do not edit.
"""Datasets of preference pairs: upload, inspect and download them; ``client.datasets``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import httpx

from plaudit._calls import Call, parse, path
from plaudit._files import RemoteFile
from plaudit._part_files import ReadOptions, part_files, read_query
from plaudit._sync.concurrency import blocking
from plaudit._sync.dataset_imports import DatasetImports
from plaudit._sync.dataset_uploads import DatasetUploads
from plaudit._sync.downloads import download_file
from plaudit._sync.pages import PAGE_SIZE, Items
from plaudit._sync.transport import Transport
from plaudit._uploads import OnBytes, Source, Upload, UploadedDataset, default_name, read_source
from plaudit.models import DatasetPreview, DatasetRead, DatasetReport

#: Read timeout of an upload: the service checks the last pairs after it received the last byte.
CHECK_SECONDS = 600.0


class Datasets:
    """Datasets of preference pairs."""

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
        """Upload preference data. The service checks every row.

        Uploading the same bytes again returns the existing dataset. A directory, a list of files
        and a large file of JSON lines are sent in parts. To continue an upload in parts that was
        interrupted, call the method again with ``resume``: parts that arrived are not sent again.

        Args:
            source: a path (JSON lines, JSON, CSV, TSV, Parquet, Arrow, also compressed), a
                directory or a list of such files, rows (mappings), or a ``datasets.Dataset``.
            name: display name; default: the name of the file or directory.
            format: ``jsonl``, ``csv``, ``parquet`` and so on, if the file name does not show it.
            resume: ``up_…``, the id of an interrupted upload in parts; a note on the error shows
                it.
            on_bytes: called with the size of each chunk in bytes before it is sent.
            options: how the rows are read: ``columns``, ``labels``, ``ignore_columns``,
                ``on_invalid``, ``chat_template_kwargs``; see docs/data.md.

        Raises:
            InvalidRequestError: rows are invalid; ``errors`` names the first invalid lines.
            TooLargeError: the data exceeds the operator's limit.
            FileNotFoundError: a file is missing, or the directory has no data files.
            TypeError, ValueError: ``source`` is of another type, or a row is not a JSON object.
        """
        if (parts := blocking(lambda: part_files(source, format))) is not None:
            if resume is None:
                if name is None and isinstance(source, str | os.PathLike):
                    name = default_name(Path(source))
                resume = (self.uploads.create(name, **options)).id
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
        return dataset.with_status(is_new=response.status_code == httpx.codes.CREATED)

    def list(self, *, page_size: int = PAGE_SIZE, after: str | None = None) -> Items[DatasetRead]:
        """List datasets, newest first. Iterating requests further pages as needed."""
        call = Call("GET", "/v1/datasets", {"limit": page_size, "after": after})
        return Items(self._transport, call, DatasetRead)

    def get(self, dataset_id: str) -> DatasetRead:
        """Return a dataset."""
        call = Call("GET", path("/v1/datasets/{}", dataset_id))
        return parse(DatasetRead, self._transport.send(call))

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset.

        Raises:
            ConflictError: an unfinished job uses it.
        """
        self._transport.send(Call("DELETE", path("/v1/datasets/{}", dataset_id)))

    def preview(self, dataset_id: str, n: int = 5) -> DatasetPreview:
        """Return the first ``n`` pairs (1 to 100) in the format that jobs train on."""
        call = Call("GET", path("/v1/datasets/{}/preview", dataset_id), {"n": n})
        return parse(DatasetPreview, self._transport.send(call))

    def report(
        self, dataset_id: str, base_model: str, *, max_length: int | None = None
    ) -> DatasetReport:
        """Return a report on the data: lengths in tokens, duplicates, contradictions and more.

        A worker computes the report at the first request; later requests return the same report.

        Args:
            dataset_id: ``ds_…``
            base_model: id of the base model whose tokenizer is used.
            max_length: tokens above which a text counts as overlong; None: the default of jobs.
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
        """Download the pairs as canonical JSON lines, verify the sha256 and return the path.

        Resumes an interrupted download of the same dataset.

        Raises:
            DirectoryError: the file exists with other content, and ``overwrite`` is False.
            DownloadError: the size or sha256 is wrong; the file is not kept.
        """
        dataset = self.get(dataset_id)
        target = Path(file)
        content = RemoteFile(target.name, dataset.bytes, dataset.sha256)
        address = path("/v1/datasets/{}/content", dataset_id)
        download_file(self._transport, address, content, target.parent, overwrite=overwrite)
        return target
