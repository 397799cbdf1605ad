"""Configuration of a client: URL, API key, timeouts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.metadata import version

import httpx

from plaudit.errors import ConfigurationError
from plaudit.retries import OnRetry, Retries

URL_VARIABLE, KEY_VARIABLE = "PLAUDIT_URL", "PLAUDIT_API_KEY"
#: A submit may wait for a worker to inspect its base model.
READ_SECONDS = 120.0
CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Patience:
    """How long the client waits for the service."""

    timeout: float
    retries: Retries
    on_retry: OnRetry | None


@dataclass(frozen=True)
class Config:
    """Checked settings of a client; the key is left out of its representation."""

    url: str
    api_key: str = field(repr=False)
    patience: Patience

    @classmethod
    def of(cls, url: str | None, api_key: str | None, patience: Patience) -> Config:
        """Settings from arguments, or from ``PLAUDIT_URL`` and ``PLAUDIT_API_KEY``.

        Raises:
            ConfigurationError: one of them is missing or cannot be used.
        """
        if not patience.timeout > 0:
            raise ValueError("timeout must be a positive number of seconds.")
        return cls(_url(url), _key(api_key), patience)

    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {
            "Authorization": f"Bearer {self.api_key}",
            "User-Agent": f"plaudit-client/{version('plaudit-client')}",
            "Accept": "application/json, application/problem+json",
        }

    def timeouts(self, read_seconds: float | None = None) -> httpx.Timeout:
        """Of one request; ``read_seconds`` where its answer takes longer than usual."""
        timeout = self.patience.timeout
        connect = min(CONNECT_SECONDS, timeout)
        return httpx.Timeout(timeout, connect=connect, read=read_seconds or timeout)


def _url(given: str | None) -> str:
    name = "url" if given is not None else URL_VARIABLE
    url = (given if given is not None else os.environ.get(URL_VARIABLE, "")).strip()
    if not url:
        raise ConfigurationError(
            "No URL of a Plaudit service.",
            hint=f"Give url=… or set {URL_VARIABLE}, for example to http://127.0.0.1:8000.",
        )
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _bad_url(name) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _bad_url(name)
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigurationError(
            f"{name} contains more than scheme, host, port and path.",
            hint="Leave user name, password, query and fragment out of it.",
        )
    return url.rstrip("/")


def _bad_url(name: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is not a URL.", hint="Example: http://127.0.0.1:8000")


def _key(given: str | None) -> str:
    name = "api_key" if given is not None else KEY_VARIABLE
    key = (given if given is not None else os.environ.get(KEY_VARIABLE, "")).strip()
    if not key:
        raise ConfigurationError(
            "No API key.",
            hint=f"Give api_key=… or set {KEY_VARIABLE}. An admin of the service creates keys.",
        )
    if not re.fullmatch(r"[!-~]+", key):  # never shown: it may be a key all the same
        raise ConfigurationError(
            f"{name} contains characters that no key contains.",
            hint="Copy the whole key again: plk_…",
        )
    return key
