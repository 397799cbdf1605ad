"""Request and response of a scorer: the contract between the API and a scorer process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Truncation = Literal["error", "left", "right"]

SCORE_SPEC_VERSION = 1
#: Parts of an adapter's summary that determine the score of a text or its normalisation.
_SUMMARY_FIELDS = (
    "add_special_tokens", "append_eos", "architecture", "base_model_sha256",
    "chat_template_sha256", "data_format", "dtype", "head_modules", "pad_token_id",
    "padding_side", "quantization", "reward_mean", "reward_std", "score_position",
)  # fmt: skip
#: Files of an adapter that do not affect scores.
_OTHER_FILES = ("README.md", "probes.jsonl", "reward_model.json", "run.lock.json")


def score_spec(summary: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Return the digest of everything that a score depends on besides the text.

    ``summary`` is the content of reward_model.json, ``files`` maps file names to their sha256.
    """
    document = {
        "version": SCORE_SPEC_VERSION,
        "summary": {name: summary.get(name) for name in _SUMMARY_FIELDS},
        "files": {name: digest for name, digest in files.items() if name not in _OTHER_FILES},
    }
    return digest_of(document)


def digest_of(document: Any) -> str:
    """Return ``sha256:`` and the digest of a JSON document."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScoreItem(_Message):
    """A prompt with its replies, one text in which a chat template is rendered, or its token ids.

    Messages are canonical, as described in ``app.domain.rows``.
    """

    prompt: str | list[dict[str, JsonValue]] | None = None
    responses: list[str | list[dict[str, JsonValue]]] = []
    text: str | None = Field(None, description="Complete text with its chat template rendered.")
    token_ids: list[int] | None = Field(
        None, description="Token ids of a complete text, to which nothing is added."
    )
    may_be_templated: bool = Field(
        False, description="Whether prompt and response may be parts of such a rendered text."
    )


class ScoreWork(_Message):
    """Texts to score with one or several adapters."""

    adapters: list[str] = Field(min_length=1)
    items: list[ScoreItem] = Field(min_length=1)
    truncation: Truncation = "error"
    max_length: int | None = None
    deterministic: bool = False


class ScoredItem(_Message):
    """Results of an item; ``tokens`` and ``truncated`` have one entry per reply."""

    scores: list[list[float]] = Field(description="Raw rewards of each adapter.")
    tokens: list[int]
    truncated: list[bool]


class ScoredWork(_Message):
    """Results of all items, in the order of the request."""

    items: list[ScoredItem]
    prompt_tokens: int
    computed_tokens: int


class ScoreProblem(_Message):
    """Reason why nothing was scored; ``item`` and ``response`` are the indices of the cause."""

    code: Literal[
        "item_too_long",
        "item_invalid",
        "adapter_not_verified",
        "adapter_unusable",
        "scorer_saturated",
        "scorer_unavailable",
    ]
    detail: str
    item: int | None = None
    response: int | None = None
