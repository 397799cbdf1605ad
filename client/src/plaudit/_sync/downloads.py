# Generated from ../_async/downloads.py by `make client-models`. Do not edit.
"""Downloads that go on where they broke off, also where an earlier process left them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx

from plaudit._calls import Call, unexpected
from plaudit._files import PartialFile, Wanted, is_whole
from plaudit._sync.concurrency import blocking
from plaudit._sync.transport import Transport
from plaudit.errors import APIError, ConnectionFailedError, DirectoryError, DownloadError


def download_file(
    transport: Transport, address: str, wanted: Wanted, directory: Path, *, overwrite: bool
) -> None:
    """Bring a file into a directory, which is made if it is not there.

    Raises:
        DirectoryError: the file is there with other bytes, and ``overwrite`` is false.
        DownloadError: the bytes are not those that the service promised.
    """
    target = directory / wanted.name
    if blocking(lambda: is_whole(target, wanted)):
        return
    if target.exists() and not overwrite:
        raise DirectoryError(
            f"{target} is there with other bytes.", hint="Move it away, or have it overwritten."
        )
    directory.mkdir(parents=True, exist_ok=True)
    file = blocking(lambda: PartialFile(directory, wanted))
    try:
        _fill(transport, address, file)
        if file.found_bytes and not file.is_right:
            # What an earlier process left is damaged, or two wrote at once.
            file.restart()
            _fill(transport, address, file)
        file.finish()
    finally:
        file.close()


def _fill(transport: Transport, address: str, file: PartialFile) -> None:
    """Add the bytes that are missing."""
    call = Call("GET", address)
    patient = replace(call, retries=transport.config.patience.retries.during_outage())
    # Until the first bytes like any other request: an unknown id or address shows at once.
    attempts = transport.attempts(call)
    while file.size < file.wanted.size:
        # Packed on the way, bytes could not be counted.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if file.size:
            headers |= {"Range": f"bytes={file.size}-", "If-Range": file.wanted.etag}
        try:
            with transport.open(replace(call, headers=headers)) as response:
                _place(response, file)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    attempts = transport.attempts(patient)
        except (APIError, ConnectionFailedError) as error:
            transport.pause(attempts, error)
        else:
            if file.size < file.wanted.size:
                raise DownloadError(f"{file.wanted.name} has only {file.size} bytes.")


def _place(response: httpx.Response, file: PartialFile) -> None:
    """See to it that the answer's first byte is the next of the file."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        if file.size:
            file.restart()
        return
    start = response.headers.get("Content-Range", "").partition("-")[0]
    if start != f"bytes {file.size}":
        raise unexpected(response, "another part than was asked for")
