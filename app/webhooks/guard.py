"""Protection against server-side request forgery: where webhook messages may be sent.

Tenants choose the URLs, so any of them may be an attempt to reach the operator's network. The name
is resolved once, at connection time. Every resolved address must be public, and the connection is
made to one of them. TLS still verifies the name, because the HTTP client connects to the name.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpcore
from httpcore import AsyncNetworkBackend, AsyncNetworkStream

from app.core.errors import FieldProblem, InvalidError
from app.core.settings import Settings

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
#: Matches host names only: the last label starts with a letter, unlike in any form of IP address.
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
#: The globally routed part of IPv6, and the Teredo and 6to4 tunnels in it, which lead to IPv4.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_TUNNELS = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))

#: Resolves host and port to addresses.
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


class RefusedError(Exception):
    """The guard does not allow this connection."""


class WebhookUrlError(InvalidError):
    """The operator does not allow webhook messages to this URL."""

    code = "webhook_url"
    title = "The webhook URL is not allowed"


def check_url(settings: Settings, url: str) -> None:
    """Check that messages may be sent to a URL.

    Raises:
        WebhookUrlError: The URL is not allowed; the message names the reason.
    """
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise _not_allowed("it contains spaces or characters that are not valid in a URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _not_allowed("it is not a valid URL") from error
    if parts.username is not None or parts.password is not None:
        raise _not_allowed(
            "it contains credentials",
            "Remove them, and authenticate messages by their signature.",
        )
    if "#" in url:
        raise _not_allowed("it contains a fragment")
    if settings.webhook_allow_loopback and host in LOOPBACK_HOSTS and parts.scheme == "http":
        return
    if parts.scheme != "https":
        raise _not_allowed("it does not start with https://")
    if port not in (None, 443):
        raise _not_allowed("its port is not 443", "Remove the port.")
    if host not in settings.webhook_hosts or not _NAME.fullmatch(host):
        raise _not_allowed(
            "its host is not allowed",
            "Ask the operator to add the host to PLAUDIT_WEBHOOK_HOSTS.",
        )


def is_public(address: str) -> bool:
    """Return whether an IP address is globally routable and not a tunnel to IPv4."""
    found = ip_address(address)
    if not found.is_global or found.is_multicast:
        return False
    if isinstance(found, IPv4Address):
        return True
    return found in _GLOBAL_UNICAST and not any(found in tunnel for tunnel in _TUNNELS)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host from the system's resolver, without a proxy."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class GuardedBackend(AsyncNetworkBackend):
    """Network backend of the HTTP client that connects to allowed addresses only."""

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve = resolve,
        wire: AsyncNetworkBackend | None = None,
    ) -> None:
        self._settings, self._resolve = settings, resolve
        self._wire = wire or httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **kwargs: Any
    ) -> AsyncNetworkStream:
        """Resolve the host once, check every address, and connect to the first that responds.

        Raises:
            RefusedError: One of the addresses is not public.
        """
        is_loopback = self._settings.webhook_allow_loopback and host in LOOPBACK_HOSTS
        addresses = list(await self._resolve(host, port))
        if not addresses:
            raise httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            is_allowed = ip_address(address).is_loopback if is_loopback else is_public(address)
            if not is_allowed:
                raise RefusedError(f"{host} resolves to an address that is not public")
        *others, last = addresses
        for address in others:
            try:
                return await self._wire.connect_tcp(address, port, *args, **kwargs)
            except httpcore.ConnectError:
                continue
        return await self._wire.connect_tcp(last, port, *args, **kwargs)


def _not_allowed(
    reason: str, hint: str = "Use a URL such as https://hooks.example.com/plaudit."
) -> WebhookUrlError:
    problem = FieldProblem("/url", WebhookUrlError.code, reason, hint)
    detail = f"Webhook messages cannot be sent to this URL: {reason}."
    return WebhookUrlError(detail, hint=hint, problems=[problem])
