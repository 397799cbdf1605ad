"""The public HTTP API, as the client commands speak it."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from app.api_keys.service import FIRST_KEY_FILE
from app.cli.database import read_settings
from app.cli.endings import CommandError, Ending
from app.cli.output import notes, plain

LOOPBACK = ("127.0.0.1", "::1", "localhost")
#: A submit may wait for a worker to inspect its base model, a long-poll for its job.
READ_SECONDS = 120.0
ATTEMPTS = 4
#: How long a service is waited for that is restarted, or that finds this key too busy.
PATIENCE_SECONDS = 120.0


class Unreachable(CommandError):
    """Nobody answered, or the service said that it cannot right now."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, Ending.AWAY, hint)


class Api:
    """One service and one key; a context manager, which closes its connections."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(10.0, read=READ_SECONDS),
        )
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def tell_wait(self, why: str) -> None:
        """Say once why the command stands still."""
        if why not in self._told:
            self._told.add(why)
            notes.print(plain(f"Waiting: {why}", "dim"))

    def get(self, path: str, **parameters: object) -> Any:
        """A document; parameters that are None are left out."""
        return _document(self._patiently("GET", path, params=_given(parameters)))

    def post(self, path: str, body: object = None, **parameters: object) -> Any:
        """Do something; a lost connection is not tried again."""
        return _document(self._send("POST", path, json=body, params=_given(parameters)))

    def submit(self, spec: object, *, is_dry_run: bool = False) -> Any:
        """Queue a job. Tried again after a lost connection: the key keeps it from being doubled."""
        answer = self._patiently(
            "POST",
            "/v1/jobs",
            json=spec,
            params={"dry_run": "true"} if is_dry_run else {},
            headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        return _document(answer)

    def job_when_changed(self, job_id: str, etag: str | None, seconds: float) -> tuple[Any, str]:
        """A job and its ETag as soon as it differs from ``etag``; None for the job when it
        did not within ``seconds``."""
        response = self._send(
            "GET",
            f"/v1/jobs/{job_id}",
            params={"wait": str(seconds)} if etag else {},
            headers={"If-None-Match": etag} if etag else {},
        )
        is_same = response.status_code == httpx.codes.NOT_MODIFIED
        return None if is_same else response.json(), response.headers["ETag"]

    def upload(
        self, content: Iterator[bytes], content_type: str, **parameters: object
    ) -> tuple[Any, bool]:
        """A dataset, as it streams, and whether the service did not have the same bytes yet."""
        answer = self._send(
            "POST",
            "/v1/datasets",
            content=content,
            params=_given(parameters),
            headers={"Content-Type": content_type},
        )
        return _document(answer), answer.status_code == httpx.codes.CREATED

    def download(self, path: str) -> Iterator[bytes]:
        """The bytes of a file that never changes; after a break it goes on where that was."""
        got, give_up_at = 0, time.monotonic() + PATIENCE_SECONDS
        while True:
            # Packed on the way, bytes could not be counted.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={got}-"} if got else {})
            try:
                with self._http.stream("GET", path, headers=headers) as response:
                    if not response.is_success:
                        response.read()
                        if self._waited(response, give_up_at):
                            continue
                    _checked(response)
                    if got and response.status_code != httpx.codes.PARTIAL_CONTENT:
                        raise Unreachable(f"{path} broke off, and {self.url} gives no parts.")
                    for chunk in response.iter_bytes():
                        got += len(chunk)
                        give_up_at = time.monotonic() + PATIENCE_SECONDS
                        yield chunk
                    return
            except httpx.TransportError as error:
                if not got or time.monotonic() > give_up_at:
                    raise self._away(error) from error
                self.tell_wait(f"{path} broke off; it goes on from there.")
                time.sleep(1)

    def _patiently(self, method: str, path: str, **request: Any) -> httpx.Response:
        for attempt in range(1, ATTEMPTS):
            try:
                return self._send(method, path, **request)
            except Unreachable as error:
                if isinstance(error.__cause__, httpx.ConnectError):
                    raise  # nobody is there: no use in waiting
                self.tell_wait(error.message)
                time.sleep(attempt)
        return self._send(method, path, **request)

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer. A service that finds the key too busy did nothing: it is asked again."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                response = self._http.request(method, path, **request)
            except httpx.TransportError as error:
                raise self._away(error) from error
            # What an upload sent is gone.
            if "content" in request or not self._waited(response, give_up_at):
                return _checked(response)

    def _waited(self, response: httpx.Response, give_up_at: float) -> bool:
        """Whether the service asked to be left alone by this key for a while, which is over now."""
        is_asked = response.headers.get("x-should-retry") == "true"
        if not is_asked or time.monotonic() > give_up_at:
            return False
        self.tell_wait(_said(response)[0][0])
        time.sleep(float(response.headers["Retry-After"]))
        return True

    def _away(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(
            f"No answer from {self.url}: {error}",
            "Start the service with 'plaudit serve', or set PLAUDIT_URL to where it runs.",
        )


def connect() -> Api:
    """The service of PLAUDIT_URL with the key of PLAUDIT_API_KEY; without them the embedded
    service of this directory and its first key."""
    settings = read_settings()
    url = os.environ.get("PLAUDIT_URL") or f"http://127.0.0.1:{settings.port}"
    if not _is_address(url):
        raise CommandError(
            "PLAUDIT_URL is no address.", Ending.USAGE, "Write it like http://127.0.0.1:8000."
        )
    if key := os.environ.get("PLAUDIT_API_KEY", "").strip():
        if not re.fullmatch(r"[!-~]+", key):  # never shown: it may be a key all the same
            raise CommandError(
                "PLAUDIT_API_KEY holds characters that no key has.",
                Ending.USAGE,
                "Copy the key anew, all of it: plk_…",
            )
        return Api(url, key)
    path = settings.data_dir / FIRST_KEY_FILE
    # The key of this machine's service is no other server's business.
    if httpx.URL(url).host not in LOOPBACK or not path.is_file():
        raise CommandError(
            "No API key.",
            Ending.USAGE,
            f"Set PLAUDIT_API_KEY. A service on this machine keeps its first key in {path}; "
            "'plaudit keys create' makes others.",
        )
    return Api(url, read_key(path))


def read_key(path: Path) -> str:
    """The key in an embedded service's key file."""
    return path.read_text().strip()


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _given(parameters: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if value is not None}


def _document(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise Unreachable(
            f"{response.request.url} is no answer of Plaudit's.",
            "Set PLAUDIT_URL to where the service runs.",
        ) from error


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
        return response
    lines, hint = _said(response)
    if response.status_code >= 500:
        raise Unreachable("\n".join(lines), hint)
    raise CommandError("\n".join(lines), Ending.REFUSED, hint)


def _said(response: httpx.Response) -> tuple[list[str], str | None]:
    """A problem's detail, with a line for each field that it does not speak of; its hint.

    Fields' hints stand behind them, each once.
    """
    try:
        problem = response.json()
        lines, hint = [problem["detail"]], problem.get("hint")
        hints = {None, hint}
        errors = problem.get("errors", [])
        for error in errors:
            what = f"{error['loc']}: {error['message']}"
            is_said = error["message"] in lines[0] if len(errors) == 1 else what in lines[0]
            if not is_said:
                lines.append(f"  {what}")
            if (advice := error.get("hint")) not in hints:
                hints.add(advice)
                line = 0 if is_said else -1
                lines[line] = f"{lines[line].removesuffix('.')}; {advice}"
    except (ValueError, KeyError, TypeError):  # a proxy's page
        return [f"{response.request.url} answered {response.status_code}."], None
    return lines, hint
