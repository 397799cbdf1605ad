"""Rules of scoring: which adapters, which items, how scores are normalised and combined."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.adapters.service import AdapterNotFoundError
from app.datasets.conversations import read_messages
from app.datasets.row_errors import FileError, RowError
from app.datasets.unused import UnusedFields
from app.domain.rows import ROLES
from app.domain.scoring import (
    ScoredWork,
    ScoreItem,
    ScoreProblem,
    ScoreWork,
    Truncation,
    digest_of,
    score_spec,
)
from app.models import Adapter, StoredFile
from app.scoring.errors import (
    AdapterNotVerifiedError,
    AdapterUnusableError,
    EnsembleInvalidError,
    ItemInvalidError,
    ItemTooLongError,
    NoStatisticsError,
    ScorerUnavailableError,
    text_error,
)
from app.scoring.schemas import (
    Ensemble,
    ScoreData,
    ScoreGroup,
    ScoreInput,
    ScoreRequest,
    ScoreResponse,
    ScoreUsage,
)


@dataclass(frozen=True)
class ScoringAdapter:
    """What the API must know of an adapter to score with it."""

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
        """How answers name it."""
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


def work_for(request: ScoreRequest, model: ScoringModel) -> ScoreWork:
    """Return what a scorer is asked, with messages in the form of stored datasets.

    Raises:
        ItemInvalidError: names the message that no dataset could hold either.
    """
    if request.groups is not None:
        items = [_group_item(group, f"/groups/{i}") for i, group in enumerate(request.groups)]
    else:
        inputs = request.inputs or []
        items = [_input_item(each, f"/inputs/{i}") for i, each in enumerate(inputs)]
    return ScoreWork(
        adapters=[member.id for member in model.members],
        items=items,
        truncation=request.truncation,
        max_length=request.max_length,
        deterministic=request.deterministic,
    )


def plain_work(
    model: ScoringModel, items: list[ScoreItem], truncation: Truncation, max_length: int | None
) -> ScoreWork:
    """Return what a scorer is asked by a client of another server."""
    return ScoreWork(
        adapters=[member.id for member in model.members],
        items=items,
        truncation=truncation,
        max_length=max_length,
    )


def response_for(request: ScoreRequest, model: ScoringModel, scored: ScoredWork) -> ScoreResponse:
    """Return the answer to a request."""
    asked: Sequence[ScoreGroup | ScoreInput] = request.groups or request.inputs or []
    data = []
    for index, (item, found) in enumerate(zip(asked, scored.items, strict=True)):
        scores, stds, members = combine(model, request.normalize, found.scores)
        data.append(
            ScoreData(
                index=index,
                id=item.id,
                scores=scores,
                truncated=found.truncated,
                tokens=found.tokens if "tokens" in request.return_ else None,
                std=stds,
                members=members if "members" in request.return_ else None,
            )
        )
    return ScoreResponse(
        model=model.name,
        score_spec=model.spec,
        data=data,
        usage=ScoreUsage(
            prompt_tokens=scored.prompt_tokens, computed_tokens=scored.computed_tokens
        ),
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


def error_for(problem: ScoreProblem, locs: Sequence[Sequence[str]]) -> Exception:
    """Return the error of the API for a scorer's refusal.

    ``locs`` holds the JSON pointer of every reply of every item.
    """
    loc = ""
    if problem.item is not None:
        replies = locs[problem.item]
        loc = replies[problem.response or 0]
        if problem.response is None and len(replies) > 1:
            loc = loc.partition("/responses/")[0]
    match problem.code:
        case "item_too_long":
            return text_error(ItemTooLongError, problem.detail, loc)
        case "item_invalid":
            return text_error(ItemInvalidError, problem.detail, loc)
        case "adapter_not_verified":
            return AdapterNotVerifiedError(problem.detail, hint=AdapterNotVerifiedError.next_step)
        case "adapter_unusable":
            return AdapterUnusableError(problem.detail, hint=AdapterUnusableError.next_step)
    return ScorerUnavailableError(problem.detail, hint=ScorerUnavailableError.next_step)


def reply_locs(request: ScoreRequest) -> list[list[str]]:
    """Return the JSON pointer of every reply of every item."""
    if request.groups is None:
        return [[f"/inputs/{i}"] for i in range(len(request.inputs or ()))]
    return [
        [f"/groups/{i}/responses/{j}" for j in range(len(group.responses))]
        for i, group in enumerate(request.groups)
    ]


def _squashed(scores: list[float], normalize: str) -> list[float]:
    return [sigmoid(score) for score in scores] if normalize == "sigmoid" else scores


def _group_item(group: ScoreGroup, loc: str) -> ScoreItem:
    return ScoreItem(
        prompt=None if group.prompt is None else _canonical(group.prompt, f"{loc}/prompt"),
        responses=[
            _canonical(response, f"{loc}/responses/{j}")
            for j, response in enumerate(group.responses)
        ],
    )


def _input_item(item: ScoreInput, loc: str) -> ScoreItem:
    if item.text is not None:
        return ScoreItem(text=item.text)
    if item.messages is not None:
        return ScoreItem(responses=[_canonical(item.messages, f"{loc}/messages")])
    assert item.response is not None
    return ScoreItem(
        prompt=None if item.prompt is None else _canonical(item.prompt, f"{loc}/prompt"),
        responses=[_canonical(item.response, f"{loc}/response")],
    )


def canonical(messages: list[Any], loc: str) -> list[dict[str, Any]]:
    """Return messages as a dataset would store them, which may also be empty.

    No dataset needs an empty reply, but a policy can give one.

    Raises:
        ItemInvalidError: names a message that no chat template could render.
    """
    found: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if len(message) == 2 and role in ROLES and isinstance(content, str):
            found.append({"content": content, "role": role})
            continue
        try:
            found += read_messages("message", [message], UnusedFields())
        except (RowError, FileError) as error:
            raise text_error(
                ItemInvalidError, f"{error.message}; {error.hint}", f"{loc}/{index}"
            ) from error
    return found


def _canonical(value: str | list[Any], loc: str) -> str | list[dict[str, Any]]:
    return canonical(value, loc) if isinstance(value, list) else value
