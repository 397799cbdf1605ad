"""Settings of scoring, of the API's side and of the scorer process."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, field_validator

#: At least 16 characters; Compose passes a variable that is not set as an empty text.
ScorerToken = Annotated[SecretStr, Field(min_length=16)]


class ScoringSettings(BaseModel):
    """A part of ``Settings``."""

    scoring_model: str | None = Field(
        None,
        pattern=r"^ad_[0-9a-f]{32}$",
        description="Adapter that the compatibility routes use when a request names none.",
    )
    scoring_waiting: int = Field(
        4096,
        ge=1,
        description="Maximum waiting scoring requests per API process; further ones get 503.",
    )
    scoring_waiting_bytes: int = Field(
        256 << 20, ge=1 << 20, description="Maximum bytes of text in the waiting scoring requests."
    )
    scoring_hold_seconds: float = Field(
        100.0,
        ge=0,
        description="How long a scoring request is held while no scorer runs, before it gets 503.",
    )
    scorer_host: str = Field("127.0.0.1", description="Address that a scorer listens on.")
    scorer_port: int = Field(0, ge=0, le=65535, description="Port of a scorer; 0: any free port.")
    scorer_url: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9._\[\]:-]{1,200}$",
        description="Address at which the API reaches this scorer; unset: host and port, or this "
        "machine's address if it listens on all.",
    )
    scorer_token: ScorerToken | None = Field(
        None,
        description="Secret that the API and the scorers share. In embedded mode one is created in "
        "data_dir.",
    )
    scorer_memory_bytes: int = Field(
        16 << 30,
        ge=1 << 20,
        description="Bytes of base models and adapters that a scorer keeps in memory. The "
        "least recently used ones are evicted.",
    )
    scorer_batch_tokens: int = Field(
        8192, ge=256, description="Maximum number of tokens in a scorer's batch."
    )
    scorer_wait_ms: float = Field(
        4.0,
        ge=0,
        le=1000,
        description="Milliseconds that a scorer waits for further requests to fill a batch.",
    )
    scorer_idle_seconds: float = Field(
        600.0,
        gt=0,
        description="Embedded mode: the scorer ends after this time without a request; the next "
        "one starts it again.",
    )

    @field_validator("scorer_token", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value or None
