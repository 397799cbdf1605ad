"""What a trainer process may say, one JSON object a line; the supervisor validates each.

The child is not trusted: numbers are finite, texts and lists are bounded, unknown keys refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from app.domain.lifecycle import FailureCode, Phase
from app.domain.plan import BaseModelFacts
from app.domain.warnings import WarningCode

MAX_LINE_BYTES = 4 << 20
FileName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MetricName = Annotated[str, Field(pattern=r"^[a-z0-9_]+(/[a-z0-9_.-]+){0,2}$", max_length=64)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhaseChanged(_Message):
    """The trainer goes on to another phase."""

    type: Literal["phase"] = "phase"
    phase: Phase


class Stepped(_Message):
    """An optimiser step is done; ``metrics`` are what was logged at it, by name."""

    type: Literal["step"] = "step"
    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    epoch: float = Field(ge=0)
    metrics: dict[MetricName, float] = Field(default={}, max_length=64)


class Noted(_Message):
    """Something worth an event; ``is_warning`` puts it on the job as well."""

    type: Literal["note"] = "note"
    code: WarningCode
    message: str = Field(max_length=2000)
    data: dict[str, JsonValue] = Field(default={}, max_length=64)
    is_warning: bool = False


class FileEntry(_Message):
    """A file of a directory that the trainer wrote: what it must hash to."""

    name: FileName
    size: int = Field(ge=0)
    sha256: Sha256


class CheckpointSaved(_Message):
    """A complete checkpoint lies in ``directory`` (a name under the attempt's work directory)."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int = Field(ge=1)
    directory: FileName
    files: list[FileEntry] = Field(min_length=1, max_length=200)
    is_best: bool = False
    metrics: dict[MetricName, float] = Field(default={}, max_length=64)


class Inspected(_Message):
    """A preflight's findings."""

    type: Literal["inspected"] = "inspected"
    facts: BaseModelFacts


class Reported(_Message):
    """A preflight's or a run's larger document: dataset report, memory estimate, …"""

    type: Literal["report"] = "report"
    name: Literal["dataset", "memory", "evaluation", "worst_pairs"]
    document: dict[str, JsonValue]


class Packaged(_Message):
    """The adapter lies in ``directory``, reloaded and verified; the last word of a good run."""

    type: Literal["packaged"] = "packaged"
    directory: FileName
    files: list[FileEntry] = Field(min_length=1, max_length=100)
    metrics: dict[MetricName, float] = Field(default={}, max_length=64)
    certificate: dict[str, JsonValue]
    summary: dict[str, JsonValue] = Field(default={}, description="reward_model.json")


class Stopped(_Message):
    """The trainer stopped because it was asked to, at ``step``, after a checkpoint."""

    type: Literal["stopped"] = "stopped"
    step: int = Field(ge=0)


class Failed(_Message):
    """The trainer gives up."""

    type: Literal["failed"] = "failed"
    code: FailureCode
    detail: str = Field(max_length=8000)
    step: int | None = None


Message = Annotated[
    PhaseChanged
    | Stepped
    | Noted
    | CheckpointSaved
    | Inspected
    | Reported
    | Packaged
    | Stopped
    | Failed,
    Field(discriminator="type"),
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
