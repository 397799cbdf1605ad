"""Translate scoring requests into work for a scorer, and its results into responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
)
from app.scoring.errors import (
    AdapterNotVerifiedError,
    AdapterUnusableError,
    ItemInvalidError,
    ItemTooLongError,
    ScorerUnavailableError,
    text_error,
)
from app.scoring.schemas import (
    ScoreData,
    ScoreGroup,
    ScoreInput,
    ScoreRequest,
    ScoreResponse,
    ScoreUsage,
)
from app.scoring.scoring_model import ScoringModel, combine


def work_for(request: ScoreRequest, model: ScoringModel) -> ScoreWork:
    """Return the work for a scorer, with messages in the form of stored datasets.

    Raises:
        ItemInvalidError: names the message that a dataset would also reject.
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
    """Return the work for a scorer, for a request in another server's format."""
    return ScoreWork(
        adapters=[member.id for member in model.members],
        items=items,
        truncation=truncation,
        max_length=max_length,
    )


def response_for(request: ScoreRequest, model: ScoringModel, scored: ScoredWork) -> ScoreResponse:
    """Return the response to a request."""
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

    Datasets reject empty replies, but a policy can generate one.

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
