"""Schemas of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.domain.servable import servable_in
from app.models import Adapter, StoredFile
from app.web.pagination import Timestamp


class AdapterFile(BaseModel):
    """A file of an adapter."""

    name: str
    bytes: int
    sha256: str
    url: str = Field(description="Path to download the file from.")


class AdapterArchive(BaseModel):
    """The deterministic tar archive of all files of an adapter."""

    bytes: int
    sha256: str
    url: str


class AdapterItem(BaseModel):
    """An adapter in a list."""

    object: Literal["adapter"] = "adapter"
    id: str
    job_id: str
    base_model: str
    revision: str | None
    bytes: int
    archive: AdapterArchive
    metrics: dict[str, Any]
    created_at: Timestamp

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """Build the schema from the database row."""
        return cls(**_fields(adapter))


class ServableRead(BaseModel):
    """Whether an inference server can serve an adapter."""

    is_servable: bool
    reasons: list[str] = Field(
        description="Why the server cannot serve the adapter, or the options to set in the server."
    )


class AdapterRead(AdapterItem):
    """The adapter of a succeeded job."""

    files: list[AdapterFile]
    certificate: dict[str, Any] = Field(
        description="Parity certificate: scores of the trained model compared with scores of the "
        "adapter after a reload in a fresh process."
    )
    reward_model: dict[str, Any] = Field(
        description="Content of reward_model.json: what a client needs to score with the adapter."
    )
    servable: dict[str, ServableRead] = Field(
        description="For `vllm`, `sglang` and `tei`: whether the server can serve the adapter, and "
        "why not. `POST /v1/score` serves every adapter."
    )

    @classmethod
    def with_files(cls, adapter: Adapter, files: Sequence[StoredFile]) -> Self:
        """Build the schema from the rows of the adapter and of its files."""
        return cls(
            **_fields(adapter),
            files=[
                AdapterFile(
                    name=file.name,
                    bytes=file.size,
                    sha256=file.sha256,
                    url=f"/v1/adapters/{adapter.id}/files/{file.name}",
                )
                for file in files
            ],
            certificate=adapter.certificate,
            reward_model=adapter.summary,
            servable={
                server: ServableRead(is_servable=found.is_servable, reasons=found.reasons)
                for server, found in servable_in(adapter.summary).items()
            },
        )


def _fields(adapter: Adapter) -> dict[str, Any]:
    return {
        "id": adapter.id,
        "job_id": adapter.job_id,
        "base_model": adapter.base_model,
        "revision": adapter.revision,
        "bytes": adapter.bytes,
        "archive": AdapterArchive(
            bytes=adapter.archive_bytes,
            sha256=adapter.archive_sha256,
            url=f"/v1/adapters/{adapter.id}/archive",
        ),
        "metrics": adapter.metrics,
        "created_at": adapter.created_at,
    }
