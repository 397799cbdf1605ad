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
#: POST /v1/jobs may wait until a worker has inspected the base model.
READ_SECONDS = 120.0
CONNECT_SECONDS = 10.0
#: Variables that httpx reads when a client is created.
_ENVIRONMENT = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


@dataclass(frozen=True)
class RequestPolicy:
    """Timeout and retries of the client's requests."""

    timeout: float
    """Seconds without a byte from the service."""
    retries: Retries
    on_retry: OnRetry | None


@dataclass(frozen=True)
class Config:
    """Validated settings of a client. ``repr`` does not show the API key."""

    url: str
    api_key: str = field(repr=False)
    policy: RequestPolicy

    @classmethod
    def of(cls, url: str | None, api_key: str | None, policy: RequestPolicy) -> Config:
        """Return settings from the arguments, or from ``PLAUDIT_URL`` and ``PLAUDIT_API_KEY``.

        Raises:
            ConfigurationError: the URL or the key is missing or invalid.
            ValueError: the timeout is not positive.
        """
        if not policy.timeout > 0:
            raise ValueError("timeout must be a positive number of seconds.")
        return cls(_url(url), _key(api_key), policy)

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        return {
            "Authorization": f"Bearer {self.api_key}",
            "User-Agent": f"plaudit-client/{version('plaudit-client')}",
            "Accept": "application/json, application/problem+json",
        }

    def timeouts(self, read_seconds: float | None = None) -> httpx.Timeout:
        """Return the timeouts of a request; ``read_seconds`` replaces the read timeout."""
        timeout = self.policy.timeout
        connect = min(CONNECT_SECONDS, timeout)
        return httpx.Timeout(timeout, connect=connect, read=read_seconds or timeout)


def _url(given: str | None) -> str:
    name = "url" if given is not None else URL_VARIABLE
    url = (given if given is not None else os.environ.get(URL_VARIABLE, "")).strip()
    if not url:
        raise ConfigurationError(
            "The URL of the Plaudit service is missing.",
            hint=f"Pass url=… or set {URL_VARIABLE}, for example to http://127.0.0.1:8000.",
        )
    try:
        parsed = httpx.URL(url)
        host = parsed.host
        parsed.raw_host.decode("ascii").encode("idna")  # refuses what no resolver accepts
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _bad_url(name) from error
    if parsed.scheme not in ("http", "https") or not host:
        raise _bad_url(name)
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigurationError(
            f"{name} contains more than scheme, host, port and path.",
            hint="Remove user name, password, query and fragment.",
        )
    return url.rstrip("/")


def _bad_url(name: str) -> ConfigurationError:
    return ConfigurationError(f"{name} is not a URL.", hint="Example: http://127.0.0.1:8000")


def _key(given: str | None) -> str:
    name = "api_key" if given is not None else KEY_VARIABLE
    key = (given if given is not None else os.environ.get(KEY_VARIABLE, "")).strip()
    if not key:
        raise ConfigurationError(
            "The API key is missing.",
            hint=f"Pass api_key=… or set {KEY_VARIABLE}. An admin of the service creates keys.",
        )
    if not re.fullmatch(r"[!-~]+", key):  # not shown in the message: it may contain a real key
        raise ConfigurationError(
            f"{name} contains characters that an API key cannot contain.",
            hint="Copy the whole key again: plk_…",
        )
    return key


def bad_environment(error: Exception) -> ConfigurationError:
    """Return the error for proxy or certificate variables from which no connection can be made."""
    names = [name for name in _ENVIRONMENT if os.environ.get(name) or os.environ.get(name.lower())]
    return ConfigurationError(
        f"The proxy or certificate settings of the environment cannot be used: {error}".rstrip(".")
        + ".",
        hint=f"Correct or unset {', '.join(names) or 'the proxy settings of the system'}.",
    )
