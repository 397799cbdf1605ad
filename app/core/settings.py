"""All settings, read from environment variables with the prefix ``PLAUDIT_``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.scoring_settings import ScoringSettings
from app.core.setting_types import DatabaseUrl, HostList, NetworkList, RedisUrl, SourceList


class Settings(ScoringSettings, BaseSettings):
    """The settings of one process, read once at its start."""

    model_config = SettingsConfigDict(
        env_prefix="PLAUDIT_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # values contain passwords
    )

    data_dir: Path = Field(
        Path(".plaudit"), description="Directory of the embedded database, caches and work files."
    )
    database_url: DatabaseUrl | None = Field(
        None, description="postgresql+psycopg://…; unset: SQLite in data_dir."
    )
    redis_url: RedisUrl | None = Field(
        None,
        description="redis://… or rediss://…; unset: embedded mode, in which the supervisor polls "
        "the database.",
    )
    queue: str = Field(
        "plaudit.default",
        pattern=r"^[a-z0-9.-]{1,64}$",
        description="Queue that this API submits jobs to and that this worker takes jobs from.",
    )
    base_models: Path | None = Field(
        None, description="Path of the base model catalogue; unset: the catalogue of the package."
    )
    hub_endpoint: str = Field(
        "https://huggingface.co", description="URL of the model hub that workers download from."
    )
    hub_token: SecretStr | None = Field(
        None, description="Hub token for gated models; set it on workers only."
    )
    hub_base_models: Literal["refuse", "redirect", "files"] = Field(
        "refuse",
        description="What /hub answers for base models of the catalogue. refuse: 404; redirect: "
        "the address of the file on the hub; files: those in this API's data_dir or packages.",
    )
    import_sources: SourceList = Field(
        frozenset(),
        description="Datasets that may be imported, separated by commas: hub:org/name, hub:org/* "
        "or hub:*; unset: no imports.",
    )
    push_targets: SourceList = Field(
        frozenset(),
        description="Repositories that adapters may be pushed to, separated by commas: "
        "hub:org/name, hub:org/* or hub:*; unset: no pushes.",
    )
    transfer_seconds: int = Field(
        6 * 3600, ge=1, description="Longest import of a dataset or upload of an adapter to a hub."
    )
    public_url: str = Field("http://127.0.0.1:8000", description="Base URL of links in responses.")

    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the API; 0: any free port.")
    database_pool_size: int = Field(
        8, ge=1, description="Connections and threads of each of the two connection pools."
    )
    max_upload_bytes: int = Field(
        2 << 30, ge=1, description="Largest dataset upload, in bytes as sent."
    )
    max_parts_bytes: int = Field(
        64 << 30,
        ge=1,
        description="Largest upload in parts, in bytes as sent; max_upload_bytes limits each part.",
    )
    max_open_uploads: int = Field(
        16, ge=1, description="Unfinished uploads in parts per API key; they expire after a day."
    )
    max_rows: int = Field(5_000_000, ge=1, description="Largest number of pairs in a dataset.")
    max_skipped_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of invalid rows up to which `on_invalid=skip` accepts an upload.",
    )
    max_artifact_bytes: int = Field(
        8 << 30, ge=1, description="Largest checkpoint or adapter, in bytes."
    )
    max_base_model_bytes: int = Field(
        200 << 30, ge=1, description="Largest base model, in bytes over all of its files."
    )
    preflight_wait_seconds: float = Field(
        25.0,
        ge=0,
        description="How long submitting a job waits for a worker to inspect a new base model.",
    )

    quota_queued: int = Field(100, ge=1, description="Waiting jobs per tenant.")
    quota_running: int = Field(16, ge=1, description="Running jobs per tenant.")
    quota_runtime_seconds: int = Field(
        30 * 86_400, ge=1, description="Longest runtime of a job; limits the value in its spec."
    )
    quota_stored_bytes: int = Field(
        100 << 30,
        ge=1,
        description="Bytes of datasets, uploads, adapters and checkpoints per tenant. Above it, "
        "uploads and new jobs are rejected; jobs that were accepted earlier still store results.",
    )

    rate_per_second: float = Field(
        20.0, gt=0, description="Requests a second per key, for all API processes together."
    )
    rate_burst: int = Field(
        60,
        ge=1,
        description="Burst of requests per key. The rate is measured over rate_burst / "
        "rate_per_second seconds, rounded up to whole seconds.",
    )
    open_answers: int = Field(
        32, ge=1, description="Open streams and downloads, per key and API process."
    )
    metrics_token: SecretStr | None = Field(
        None, description="Bearer token that /metrics requires; unset: no token."
    )
    failed_logins_per_minute: int = Field(
        10,
        ge=1,
        description="Wrong keys per client network (an IPv4 address or an IPv6 /64) that get 401; "
        "further ones get 429. Valid keys always pass.",
    )
    trusted_hosts: HostList = Field(
        frozenset(),
        description="Accepted Host headers, separated by commas; *.example.com is allowed; unset: "
        "all.",
    )
    trusted_proxies: NetworkList = Field(
        frozenset(),
        description="Addresses and networks of reverse proxies, separated by commas, whose "
        "X-Forwarded-For header names the client, for failed logins and the audit log; unset: the "
        "header is ignored.",
    )
    webhook_hosts: HostList = Field(
        frozenset(),
        description="Exact host names that webhooks may be sent to, separated by commas; unset: no "
        "webhooks.",
    )
    webhook_allow_loopback: bool = Field(
        False, description="For tests: allow webhooks over http to this machine, on any port."
    )

    slots: int = Field(
        1,
        ge=1,
        description="Concurrent trainers on this worker, each on its own GPU, if any.",
    )
    torch_threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="CPU threads of a trainer; auto: the cores divided by the slots. A change can "
        "change the last bits of an adapter.",
    )
    checkpoint_seconds: float = Field(
        300.0, gt=0, description="Seconds between checkpoints if the spec sets no checkpoint_steps."
    )
    token_cache_bytes: int = Field(
        16 << 30,
        ge=0,
        description="Disk space for token ids that the jobs of this worker share; 0: no cache.",
    )
    poll_seconds: float = Field(
        0.5, gt=0, description="Embedded mode: seconds between two polls for work."
    )
    slow_poll_seconds: float = Field(
        30.0,
        gt=0,
        description="With a broker: seconds between two polls, in case the broker is down.",
    )
    trainer_memory_bytes: int | None = Field(
        None,
        description="Memory that a trainer may write to; unset: no limit, and the kernel ends the "
        "trainer before the worker when memory runs short.",
    )
    preflight_seconds: int = Field(
        600, ge=1, description="Longest inspection of a base model, with its dataset reports."
    )
    preflight_memory_bytes: int | None = Field(
        None,
        ge=2 << 30,
        description="Memory that an inspection may write to; unset: 4 GiB and more for large "
        "tokenizers and datasets, at most a third of the machine's memory.",
    )

    heartbeat_seconds: float = Field(
        10.0, gt=0, description="Seconds between two renewals of a lease."
    )
    intent_seconds: float = Field(
        2.0, gt=0, description="Seconds between two checks for a cancel or pause request."
    )
    watchdog_seconds: float = Field(
        120.0, gt=0, description="A trainer exits after this time without a keep-alive message."
    )
    self_fence_seconds: float = Field(
        130.0, gt=0, description="A supervisor kills its trainer after this time without a renewal."
    )
    lease_seconds: float = Field(
        180.0, gt=0, description="How long a lease is valid after its last renewal."
    )
    sweep_grace_seconds: float = Field(
        20.0, ge=0, description="A job is taken from its worker this long after its lease expired."
    )
    drain_seconds: float = Field(
        120.0, gt=0, description="Time for a last checkpoint after SIGTERM."
    )
    reconcile_seconds: float = Field(
        2.0, gt=0, description="Seconds between two searches for lost jobs and tickets."
    )
    max_failures: int = Field(
        3, ge=1, description="A job fails after this number of failed attempts in a row."
    )
    max_crashes: int = Field(
        3, ge=1, description="A job fails after it lost this number of workers in a row."
    )
    max_stalls: int = Field(
        3,
        ge=1,
        description="A job fails after this number of attempts in a row without a new checkpoint.",
    )
    backoff_seconds: float = Field(
        10.0, gt=0, description="Longest wait before the second attempt; doubles with each attempt."
    )
    backoff_max_seconds: float = Field(900.0, gt=0, description="Longest wait before any attempt.")

    @model_validator(mode="after")
    def _check_timing(self) -> Self:
        intent, heartbeat = self.intent_seconds, self.heartbeat_seconds
        watchdog, fence, lease = self.watchdog_seconds, self.self_fence_seconds, self.lease_seconds
        if not intent <= heartbeat < watchdog < fence < lease:
            raise ValueError(
                "two trainers could run the same job unless intent_seconds ≤ heartbeat_seconds < "
                "watchdog_seconds < self_fence_seconds < lease_seconds; found "
                f"{intent:g}, {heartbeat:g}, {watchdog:g}, {fence:g}, {lease:g}"
            )
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether the service runs without a broker, as one process tree with one supervisor."""
        return self.redis_url is None

    @property
    def database(self) -> str:
        """The SQLAlchemy URL. It contains the password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'plaudit.db').absolute()}"

    @property
    def model_cache(self) -> Path:
        """Directory of downloaded base models."""
        return self.data_dir / "models"

    @property
    def token_cache(self) -> Path:
        """Directory of cached token ids."""
        return self.data_dir / "tokens"

    @property
    def trainer_threads(self) -> int:
        """CPU threads of a trainer."""
        if self.torch_threads != "auto":
            return self.torch_threads
        return max(1, len(os.sched_getaffinity(0)) // self.slots)

    @property
    def work_dir(self) -> Path:
        """Directory of the trainers' work files, with one subdirectory per attempt."""
        return self.data_dir / "work"
