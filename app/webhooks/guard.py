"""Where messages may go. Tenants choose addresses, so each is taken for an attempt at our network.

What is checked is what is connected to: the name is resolved once, when connecting, every address
must be a public one, and the connection goes to one of these very addresses. TLS still verifies the
name, since the HTTP client believes that it connected to that.
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
#: Names only: a last label that begins with a letter is no number in any notation of addresses.
_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
#: All that is routed worldwide; the rest of IPv6, the 6to4 and Teredo tunnels lead to IPv4.
_WORLDWIDE = IPv6Network("2000::/3")
_TUNNELS = (IPv6Network("2001::/32"), IPv6Network("2002::/16"))

#: Host and port to addresses.
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


class RefusedError(Exception):
    """The guard does not let this connection be made."""


class WebhookUrlError(InvalidError):
    """The operator does not let messages go to this address."""

    code = "webhook_url"
    title = "Not an address for webhooks"


def check_url(settings: Settings, url: str) -> None:
    """Refuse an address that messages may not go to.

    Raises:
        WebhookUrlError: says which part is wrong.
    """
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise _refusal("it has spaces or characters that do not belong into a URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _refusal("it is not a URL") from error
    if parts.username is not None or parts.password is not None:
        raise _refusal("it has credentials", "Check the signature instead.")
    if "#" in url:
        raise _refusal("it has a fragment")
    if settings.webhook_allow_loopback and host in LOOPBACK_HOSTS and parts.scheme == "http":
        return
    if parts.scheme != "https":
        raise _refusal("it does not begin with https://")
    if port not in (None, 443):
        raise _refusal("its port is not 443", "Leave the port out.")
    if host not in settings.webhook_hosts or not _NAME.fullmatch(host):
        raise _refusal(
            "its host is not allowed", "The operator lists hosts in PLAUDIT_WEBHOOK_HOSTS."
        )


def is_public(address: str) -> bool:
    """Whether anybody in the world would reach the same machine by this address."""
    found = ip_address(address)
    if not found.is_global or found.is_multicast:
        return False
    if isinstance(found, IPv4Address):
        return True
    return found in _WORLDWIDE and not any(found in tunnel for tunnel in _TUNNELS)


async def resolve(host: str, port: int) -> list[str]:
    """What the system's resolver says; never through a proxy."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(where[0]) for *_, where in found]


class GuardedBackend(AsyncNetworkBackend):
    """Connects the HTTP client, to allowed addresses only."""

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
        """Resolve once, check every address, connect to the first that answers.

        Raises:
            RefusedError: an address is not public.
        """
        is_loopback = self._settings.webhook_allow_loopback and host in LOOPBACK_HOSTS
        addresses = list(await self._resolve(host, port))
        if not addresses:
            raise httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            is_allowed = ip_address(address).is_loopback if is_loopback else is_public(address)
            if not is_allowed:
                raise RefusedError(f"{host} leads to an address that is not public")
        *others, last = addresses
        for address in others:
            try:
                return await self._wire.connect_tcp(address, port, *args, **kwargs)
            except httpcore.ConnectError:
                continue
        return await self._wire.connect_tcp(last, port, *args, **kwargs)


def _refusal(
    reason: str, hint: str = "Give an address such as https://hooks.example.com/plaudit."
) -> WebhookUrlError:
    problem = FieldProblem("/url", WebhookUrlError.code, reason, hint)
    detail = f"Messages cannot go to this URL: {reason}."
    return WebhookUrlError(detail, hint=hint, problems=[problem])
