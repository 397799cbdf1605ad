# Generated from ../_async/downloads.py by `make client-models`. Do not edit.
"""Downloads files and resumes interrupted downloads, including those of an earlier process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx

from plaudit._calls import Call, unexpected
from plaudit._files import PartialFile, RemoteFile, is_complete
from plaudit._sync.concurrency import blocking
from plaudit._sync.transport import Transport
from plaudit.errors import APIError, ConnectionFailedError, DirectoryError, DownloadError


def download_file(
    transport: Transport, address: str, wanted: RemoteFile, directory: Path, *, overwrite: bool
) -> None:
    """Download a file into a directory, which is created if it does not exist.

    Raises:
        DirectoryError: the file exists with other content, and ``overwrite`` is False.
        DownloadError: the size or sha256 is wrong.
    """
    target = directory / wanted.name
    if blocking(lambda: is_complete(target, wanted)):
        return
    if target.exists() and not overwrite:
        raise DirectoryError(
            f"{target} exists with other content.", hint="Move it away, or allow overwriting it."
        )
    directory.mkdir(parents=True, exist_ok=True)
    file = blocking(lambda: PartialFile(directory, wanted))
    try:
        _download_rest(transport, address, file)
        if file.resumed_bytes and not file.is_verified:
            # The partial file of an earlier process was damaged, or two processes wrote to it.
            file.restart()
            _download_rest(transport, address, file)
        file.finish()
    finally:
        file.close()


def _download_rest(transport: Transport, address: str, file: PartialFile) -> None:
    """Download the bytes that are missing."""
    call = Call("GET", address)
    outage_call = replace(call, retries=transport.config.policy.retries.during_outage())
    # The usual limits apply until the first bytes, so that a wrong id or URL fails soon.
    attempts = transport.attempts(call)
    reached = file.size
    while file.size < file.wanted.size:
        # A compressed response would not have the byte offsets of the file.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if file.size:
            headers |= {"Range": f"bytes={file.size}-", "If-Range": file.wanted.etag}
        try:
            with transport.open(replace(call, headers=headers)) as response:
                _check_offset(response, file)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    # Bytes that arrive again, from a server without ranges, are no progress.
                    if file.size > reached:
                        reached = file.size
                        attempts = transport.attempts(outage_call)
        except (APIError, ConnectionFailedError) as error:
            transport.pause(attempts, error)
        else:
            if file.size < file.wanted.size:
                raise DownloadError(
                    f"{file.wanted.name} ended after {file.size} of {file.wanted.size} bytes."
                )


def _check_offset(response: httpx.Response, file: PartialFile) -> None:
    """Check that the response begins with the next byte of the file; restart a full response."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        if file.size:
            file.restart()
        return
    start = response.headers.get("Content-Range", "").partition("-")[0]
    if start != f"bytes {file.size}":
        raise unexpected(response, f"its byte range does not start at {file.size}")
