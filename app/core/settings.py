"""Every knob, once. Environment prefix ``PLAUDIT_``; seconds and bytes unless said."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

POSTGRESQL = "postgresql+psycopg"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [name.strip().lower() for name in value.split(",") if name.strip()]


#: In the environment: names with commas between them.
HostList = Annotated[frozenset[str], NoDecode, BeforeValidator(_split)]


def _proxies(networks: frozenset[str]) -> frozenset[str]:
    found = set()
    for text in networks:
        try:
            network = ip_network(text)
        except ValueError as error:
            raise ValueError(
                f"{error}; write addresses and networks like 10.0.0.7 or 10.0.0.0/8"
            ) from None
        if network.prefixlen == 0:
            raise ValueError("a network of all addresses would let every client forge its address")
        found.add(str(network))
    return frozenset(found)


def _database_url(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    scheme, _, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):  # as hosts hand it out; SQLAlchemy wants the driver
        url = f"{POSTGRESQL}://{rest}"
    elif scheme not in (POSTGRESQL, "sqlite"):
        raise ValueError(f"{_found(url)}; write {POSTGRESQL}://…")
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise _unreadable() from None
    return SecretStr(url)


def _redis_url(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if url.partition("://")[0] not in ("redis", "rediss"):
        raise ValueError(f"{_found(url)}; write redis://… or rediss://…")
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise _unreadable() from None
    return secret


def _found(url: str) -> str:
    """The scheme; never more, for what is around it may be a password."""
    scheme = re.match(r"[a-z][a-z0-9+.-]{0,31}(?=://)", url, re.IGNORECASE)
    return f"found {scheme[0]}://…" if scheme else "what was found is no URL"


def _unreadable() -> ValueError:
    return ValueError(
        "its host and port cannot be read; write signs like @ : / in its password as %40 %3A %2F"
    )


#: In the environment: IP addresses and networks with commas between them.
NetworkList = Annotated[HostList, AfterValidator(_proxies)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]


class Settings(BaseSettings):
    """Read once at start; frozen."""

    model_config = SettingsConfigDict(
        env_prefix="PLAUDIT_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # what was read holds passwords
    )

    data_dir: Path = Field(Path(".plaudit"), description="Embedded database, caches, work files.")
    database_url: DatabaseUrl | None = Field(
        None, description="postgresql+psycopg://…; none: SQLite in data_dir."
    )
    redis_url: RedisUrl | None = Field(
        None, description="redis://…; none: embedded mode, the supervisor polls the database."
    )
    queue: str = Field(
        "plaudit.default",
        pattern=r"^[a-z0-9.-]{1,64}$",
        description="What this API submits to, and this worker works for.",
    )
    base_models: Path | None = Field(None, description="Catalogue file; none: the shipped one.")
    hub_endpoint: str = Field("https://huggingface.co", description="Where hub models come from.")
    hub_token: SecretStr | None = Field(None, description="Opens gated models; for workers only.")
    public_url: str = Field(
        "http://127.0.0.1:8000", description="What links in answers start with."
    )

    host: str = Field("127.0.0.1", description="The address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Its port; 0: any free one.")
    database_pool_size: int = Field(
        8, ge=1, description="Connections of each of the two pools, and threads on each."
    )
    max_upload_bytes: int = Field(2 << 30, ge=1, description="One dataset, as it is sent.")
    max_rows: int = Field(5_000_000, ge=1, description="Pairs of one dataset.")
    max_artifact_bytes: int = Field(8 << 30, ge=1, description="One checkpoint or adapter.")
    max_base_model_bytes: int = Field(200 << 30, ge=1, description="Files of one base model.")
    preflight_wait_seconds: float = Field(
        25.0, ge=0, description="How long a submit waits for a worker to inspect a new base model."
    )

    quota_queued: int = Field(100, ge=1, description="Jobs waiting at once, a tenant.")
    quota_running: int = Field(16, ge=1, description="Jobs running at once, a tenant.")
    quota_runtime_seconds: int = Field(
        30 * 86_400, ge=1, description="The longest that one job may run, whatever its spec asks."
    )
    quota_stored_bytes: int = Field(
        100 << 30,
        ge=1,
        description="Datasets, adapters and checkpoints, a tenant. Full, it takes no upload and no "
        "job; those that it took before still keep what they make.",
    )

    rate_per_second: float = Field(
        20.0, gt=0, description="Requests a second per key, for all API processes together."
    )
    rate_burst: int = Field(
        60,
        ge=1,
        description="Requests at once per key. The rate is measured over rate_burst / "
        "rate_per_second seconds, rounded up to whole seconds.",
    )
    open_answers: int = Field(
        32, ge=1, description="Streams and downloads at once, a key and API process."
    )
    failed_logins_per_minute: int = Field(
        10,
        ge=1,
        description="Wrong keys per client network (an IPv4 address or an IPv6 /64) that get 401; "
        "further ones get 429. Valid keys always pass.",
    )
    trusted_hosts: HostList = Field(
        frozenset(), description="Host headers that are answered, *.example.com too; none: all."
    )
    trusted_proxies: NetworkList = Field(
        frozenset(),
        description="Addresses and networks of reverse proxies whose X-Forwarded-For names the "
        "client, for failed logins and the audit log; none: the header is ignored.",
    )
    webhook_hosts: HostList = Field(
        frozenset(), description="Exact host names that webhooks may lead to; none: no webhooks."
    )
    webhook_allow_loopback: bool = Field(
        False, description="For tests: also http to this machine, any port."
    )

    slots: int = Field(
        1, ge=1, description="Trainers at once on this worker; where there are GPUs, one GPU each."
    )
    torch_threads: int = Field(
        1, ge=1, description="Threads of a trainer; part of what makes runs byte-equal."
    )
    checkpoint_seconds: float = Field(
        300.0, gt=0, description="How often a checkpoint is saved where the spec gives no steps."
    )
    token_cache_bytes: int = Field(
        16 << 30, ge=0, description="Disk for token ids that jobs of this worker share; 0: none."
    )
    poll_seconds: float = Field(0.5, gt=0, description="Embedded: how often to look for work.")
    slow_poll_seconds: float = Field(30.0, gt=0, description="With a broker: in case it is dead.")
    trainer_memory_bytes: int | None = Field(
        None, description="Memory that a trainer can write to."
    )
    preflight_seconds: int = Field(600, ge=1, description="An inspection, with its data reports.")
    preflight_memory_bytes: int = Field(
        32 << 30, ge=2 << 30, description="Memory that an inspection can write to."
    )

    heartbeat_seconds: float = Field(10.0, gt=0, description="How often a lease is renewed.")
    intent_seconds: float = Field(
        2.0, gt=0, description="How often a cancel or a pause is looked for."
    )
    watchdog_seconds: float = Field(120.0, gt=0, description="A trainer unheard this long exits.")
    self_fence_seconds: float = Field(130.0, gt=0, description="A supervisor kills its trainer.")
    lease_seconds: float = Field(
        180.0, gt=0, description="How long a job is its worker's, unrenewed."
    )
    sweep_grace_seconds: float = Field(20.0, ge=0, description="After that it is taken back.")
    drain_seconds: float = Field(120.0, gt=0, description="For a last checkpoint at SIGTERM.")
    reconcile_seconds: float = Field(
        2.0, gt=0, description="How often lost jobs and tickets are looked for."
    )
    max_failures: int = Field(3, ge=1, description="Failed attempts in a row, then the job fails.")
    max_crashes: int = Field(3, ge=1, description="Lost workers in a row, then the job fails.")
    max_stalls: int = Field(3, ge=1, description="Attempts in a row without a newer checkpoint.")
    backoff_seconds: float = Field(
        10.0, gt=0, description="Before the first new attempt, at most; doubles."
    )
    backoff_max_seconds: float = Field(900.0, gt=0, description="Before any new attempt, at most.")

    @model_validator(mode="after")
    def _timing_is_in_order(self) -> Self:
        order = {
            "intent_seconds": self.intent_seconds,
            "heartbeat_seconds": self.heartbeat_seconds,
            "watchdog_seconds": self.watchdog_seconds,
            "self_fence_seconds": self.self_fence_seconds,
            "lease_seconds": self.lease_seconds,
        }
        if sorted(order.values()) != list(order.values()) or (
            not self.heartbeat_seconds < self.watchdog_seconds < self.self_fence_seconds
            or not self.self_fence_seconds < self.lease_seconds
        ):
            found = " < ".join(f"{name} {value:g}" for name, value in order.items())
            raise ValueError(
                "these must rise, or two trainers could run one job: "
                f"intent ≤ heartbeat < watchdog < self-fence < lease; found {found}"
            )
        return self

    @property
    def is_embedded(self) -> bool:
        """No broker: API and one supervisor in one process tree."""
        return self.redis_url is None

    @property
    def database(self) -> str:
        """The SQLAlchemy URL, secret and all: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'plaudit.db').absolute()}"

    @property
    def model_cache(self) -> Path:
        """Where fetched base models lie."""
        return self.data_dir / "models"

    @property
    def token_cache(self) -> Path:
        """Where the token ids of datasets lie."""
        return self.data_dir / "tokens"

    @property
    def work_dir(self) -> Path:
        """Where trainers work; one directory an attempt."""
        return self.data_dir / "work"
