"""The connection of the client commands to the service: URL, API key and retries."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx

from app.api_keys.defaults import FIRST_KEY_FILE
from app.cli.database import read_settings
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import notes, plain, time_span
from plaudit import APIError, ConnectionFailedError, Plaudit, Retries, Retry

LOOPBACK = ("127.0.0.1", "::1", "localhost")
RETRIES = Retries(attempts=4, seconds=120, outage_seconds=600)
#: Minimum time between two equal messages of a command that waits.
REMIND_SECONDS = 30.0


class WaitNotes:
    """Reports on stderr why a command waits for a retry, and for how long at most."""

    def __init__(self) -> None:
        self._reported = ""
        self._reported_at = 0.0

    def __call__(self, retry: Retry) -> None:
        """Report the retry, unless the same error was reported less than 30 seconds ago.

        Raises:
            ConnectionFailedError: no server is listening, and the command has not started
                an operation that it could resume.
        """
        error = retry.error
        if isinstance(error, ConnectionFailedError) and not error.was_sent and retry.attempts_left:
            raise error
        # Compare the kind of error: its message can differ between attempts.
        kind = error.code if isinstance(error, APIError) else type(error).__name__
        now = time.monotonic()
        if kind != self._reported or now - self._reported_at > REMIND_SECONDS:
            self._reported, self._reported_at = kind, now
            notes.print(
                plain(f"Waiting up to {time_span(retry.seconds_left)}: {error.message}", "dim")
            )


def connect() -> Plaudit:
    """Return a client of PLAUDIT_URL with PLAUDIT_API_KEY.

    The default is the embedded service of the current directory with its first key.
    """
    settings = read_settings()
    url = os.environ.get("PLAUDIT_URL") or f"http://127.0.0.1:{settings.port}"
    host = _host(url)
    if os.environ.get("PLAUDIT_API_KEY", "").strip():
        return open_client(url, None)
    path = settings.data_dir / FIRST_KEY_FILE
    # Never send the key of this machine's service to another host.
    if host not in LOOPBACK or not path.is_file():
        raise CommandError(
            "The API key is missing.",
            ExitCode.USAGE,
            f"Set PLAUDIT_API_KEY. A service on this machine stores its first key in {path}; "
            "create further keys with 'plaudit keys create'.",
        )
    return open_client(url, read_key(path))


def open_client(url: str, key: str | None) -> Plaudit:
    """Return a client; without ``key`` it uses PLAUDIT_API_KEY."""
    return Plaudit(url, key, retries=RETRIES, on_retry=WaitNotes())


def read_key(path: Path) -> str:
    """Return the API key in the key file of an embedded service."""
    return path.read_text().strip()


def page_of_job(client: Plaudit, job_id: str) -> str:
    """Return the URL of a job's page for a browser."""
    return f"{client.url}/jobs/{job_id}"


def _host(url: str) -> str:
    """Return the host of a URL.

    Raises:
        CommandError: ``url`` is not an HTTP URL.
    """
    try:
        parsed = httpx.URL(url.strip())
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError):
        parsed, host = httpx.URL(), ""
    if parsed.scheme not in ("http", "https") or not host:
        raise CommandError(
            "PLAUDIT_URL is not a URL.", ExitCode.USAGE, "Example: http://127.0.0.1:8000"
        )
    return host
