"""The adapter or ensemble of a scoring request, and the combination of its scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters.service import AdapterNotFoundError
from app.domain.scoring import digest_of, score_spec
from app.models import Adapter, StoredFile
from app.scoring.errors import EnsembleInvalidError, NoStatisticsError
from app.scoring.schemas import Ensemble


@dataclass(frozen=True)
class ScoringAdapter:
    """The facts about an adapter that scoring needs."""

    id: str
    base_sha256: str | None
    mean: float | None
    std: float | None
    spec: str

    def normed(self, score: float) -> float:
        """Return the score in standard deviations from the adapter's mean on held-out pairs."""
        assert self.mean is not None
        assert self.std is not None
        return (score - self.mean) / self.std


@dataclass(frozen=True)
class ScoringModel:
    """An adapter, or the members of an ensemble."""

    members: tuple[ScoringAdapter, ...]
    ensemble: Ensemble | None = None

    @property
    def name(self) -> str:
        """Its name in responses."""
        return ",".join(member.id for member in self.members)

    @property
    def spec(self) -> str:
        """Digest of everything that the scores depend on."""
        if self.ensemble is None:
            return self.members[0].spec
        how = [self.ensemble.reduce, self.ensemble.lambda_]
        return digest_of([[member.spec for member in self.members], how])


def find_adapter(session: Session, tenant_id: str, adapter_id: str) -> ScoringAdapter:
    """Return an adapter of this tenant.

    Raises:
        AdapterNotFoundError
    """
    row = session.execute(
        select(Adapter.summary).where(Adapter.id == adapter_id, Adapter.tenant_id == tenant_id)
    ).one_or_none()
    if row is None:
        raise AdapterNotFoundError(f"There is no adapter {adapter_id}.")
    summary: Mapping[str, Any] = row.summary
    stored = select(StoredFile.name, StoredFile.sha256).where(StoredFile.owner_id == adapter_id)
    files = {file.name: file.sha256 for file in session.execute(stored)}
    return ScoringAdapter(
        adapter_id,
        summary.get("base_model_sha256"),
        summary.get("reward_mean"),
        summary.get("reward_std"),
        score_spec(summary, files),
    )


def check_model(model: ScoringModel, normalize: str) -> None:
    """Check that the members can be combined and normalised as requested.

    Raises:
        EnsembleInvalidError, NoStatisticsError
    """
    missing = [member.id for member in model.members if member.mean is None or not member.std]
    if model.ensemble is not None:
        if len({member.base_sha256 for member in model.members}) > 1:
            raise EnsembleInvalidError(
                "The members have different base models.", hint=EnsembleInvalidError.next_step
            )
        if missing:
            raise EnsembleInvalidError(
                f"{missing[0]} has no mean and deviation of its rewards, so its scores cannot be "
                "compared with those of others.",
                hint=EnsembleInvalidError.next_step,
            )
    elif normalize == "zscore" and missing:
        raise NoStatisticsError(
            f"{missing[0]} was trained without held-out pairs.", hint=NoStatisticsError.next_step
        )


def combine(
    model: ScoringModel, normalize: str, raw: Sequence[Sequence[float]]
) -> tuple[list[float], list[float] | None, list[list[float]] | None]:
    """Return scores, deviations and members' scores of the replies to one prompt.

    ``raw`` holds the rewards of each member. An ensemble combines z-scores, because raw rewards of
    different adapters have different zeros and units.
    """
    ensemble = model.ensemble
    if ensemble is None:
        member = model.members[0]
        scores = [member.normed(s) if normalize == "zscore" else s for s in raw[0]]
        return _squashed(scores, normalize), None, None
    normed = [
        [member.normed(score) for score in scores]
        for member, scores in zip(model.members, raw, strict=True)
    ]
    columns = list(zip(*normed, strict=True))
    stds = [statistics.pstdev(column) for column in columns]
    match ensemble.reduce:
        case "min":
            scores = [min(column) for column in columns]
        case "mean":
            scores = [statistics.fmean(column) for column in columns]
        case "lcb":
            scores = [
                statistics.fmean(column) - ensemble.lambda_ * std
                for column, std in zip(columns, stds, strict=True)
            ]
    return _squashed(scores, normalize), stds, normed


def sigmoid(score: float) -> float:
    """Return 1 / (1 + e^-score) without overflow."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    power = math.exp(score)
    return power / (1 + power)


def _squashed(scores: list[float], normalize: str) -> list[float]:
    return [sigmoid(score) for score in scores] if normalize == "sigmoid" else scores
