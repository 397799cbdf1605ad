"""Response models of uploads in parts."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

from pydantic import BaseModel, Field

from app.datasets.containers import FileFormat
from app.datasets.part_uploads import UploadState
from app.models import DatasetUpload, DatasetUploadPart
from app.web.pagination import Timestamp


class UploadPartRead(BaseModel):
    """One part of an upload."""

    object: Literal["dataset_upload_part"] = "dataset_upload_part"
    number: int
    bytes: int
    sha256: str = Field(description="SHA-256 of the bytes as they were sent.")
    source_format: FileFormat
    created_at: Timestamp

    @classmethod
    def of(cls, part: DatasetUploadPart) -> Self:
        """Create the response from a database row."""
        return cls(
            number=part.number,
            bytes=part.bytes,
            sha256=part.sha256,
            source_format=cast(FileFormat, part.format),
            created_at=part.created_at,
        )


class UploadRead(BaseModel):
    """An upload in parts."""

    object: Literal["dataset_upload"] = "dataset_upload"
    id: str
    name: str | None
    status: Literal["open", "finishing", "finished"]
    dataset_id: str | None = Field(description="The dataset, once the upload is finished.")
    created_at: Timestamp
    expires_at: Timestamp = Field(description="A day after the last part was sent.")

    @classmethod
    def of(cls, upload: DatasetUpload) -> Self:
        """Create the response from a database row."""
        return cls.model_validate(_columns(upload))


class UploadWithParts(UploadRead):
    """An upload and the parts received so far, in the order of their numbers."""

    parts: list[UploadPartRead]

    @classmethod
    def of_state(cls, state: UploadState) -> Self:
        """Create the response from database rows."""
        parts = [UploadPartRead.of(part) for part in state.parts]
        return cls.model_validate({**_columns(state.upload), "parts": parts})


def _columns(upload: DatasetUpload) -> dict[str, Any]:
    names = UploadRead.model_fields.keys() - {"object"}
    return {name: getattr(upload, name) for name in names}
