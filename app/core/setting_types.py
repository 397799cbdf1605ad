"""The types of settings whose values need more than a bound: URLs, host names, networks."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, StringConstraints
from pydantic_settings import NoDecode

POSTGRESQL = "postgresql+psycopg"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [name.strip().lower() for name in value.split(",") if name.strip()]


#: A set of host names, separated by commas in the environment variable.
HostList = Annotated[frozenset[str], NoDecode, BeforeValidator(_split)]


def _proxies(networks: frozenset[str]) -> frozenset[str]:
    found = set()
    for text in networks:
        try:
            network = ip_network(text)
        except ValueError as error:
            raise ValueError(
                f"{error}; use addresses and networks such as 10.0.0.7 or 10.0.0.0/8"
            ) from None
        if network.prefixlen == 0:
            raise ValueError("a network of all addresses would let every client forge its address")
        found.add(str(network))
    return frozenset(found)


def _database_url(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    scheme, _, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):  # without the driver that SQLAlchemy requires
        url = f"{POSTGRESQL}://{rest}"
    elif scheme not in (POSTGRESQL, "sqlite"):
        raise ValueError(f"{_found(url)}; use {POSTGRESQL}://…")
    # Imported here, because client commands read the settings and use no database.
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise _unreadable() from None
    return SecretStr(url)


def _redis_url(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if url.partition("://")[0] not in ("redis", "rediss"):
        raise ValueError(f"{_found(url)}; use redis://… or rediss://…")
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise _unreadable() from None
    return secret


def _found(url: str) -> str:
    """Describe an unsupported URL by its scheme only: the rest may contain a password."""
    scheme = re.match(r"[a-z][a-z0-9+.-]{0,31}(?=://)", url, re.IGNORECASE)
    return f"found {scheme[0]}://…" if scheme else "the value is not a URL"


def _unreadable() -> ValueError:
    return ValueError(
        "cannot read host and port; percent-encode @ : / in the password as %40 %3A %2F"
    )


#: IP addresses and networks, separated by commas in the environment variable.
NetworkList = Annotated[HostList, AfterValidator(_proxies)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]


def _sources(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [name.strip() for name in value.split(",") if name.strip()]


#: Sources such as hub:org/name or hub:org/*, separated by commas in the environment variable.
SourceList = Annotated[
    frozenset[Annotated[str, StringConstraints(pattern=r"^hub:(\*|[\w.-]+/(\*|[\w.-]+))$")]],
    NoDecode,
    BeforeValidator(_sources),
]
