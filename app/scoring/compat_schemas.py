"""Requests of the clients of other reward servers. Fields that do not matter here are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from app.core.errors import InvalidError
from app.domain.scoring import ScoreItem, Truncation
from app.scoring.errors import ItemInvalidError, text_error
from app.scoring.schemas import MAX_REPLIES, Messages, Text
from app.scoring.service import canonical

MAX_TOKENS = 1 << 20

Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_REPLIES)]
TokenIds = Annotated[
    list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1, max_length=MAX_TOKENS)
]


class TextPart(BaseModel):
    """SGLang: the text of an input that could also have pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    image: None = None
    video: None = None


Input = (
    str
    | Texts
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_REPLIES)]
    | TextPart
    | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_REPLIES)]
)
#: TEI's names of the sides from which a text is cut.
TruncationDirection = Literal["Left", "Right"]
_SIDES: dict[TruncationDirection, Truncation] = {"Left": "left", "Right": "right"}
#: vLLM called it activation before.
UseActivation = Annotated[
    bool | None, Field(validation_alias=AliasChoices("use_activation", "activation"))
]


@dataclass(frozen=True)
class Asked:
    """What to score. ``locs`` holds the JSON pointer of every reply of every item."""

    items: list[ScoreItem]
    locs: list[list[str]]
    truncation: Truncation = "error"
    max_length: int | None = None


class _Foreign(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str | None = None


class GetRewardRequest(_Foreign):
    """OpenRLHF: whole texts, prompt and reply, rendered with the chat template."""

    query: Texts

    def asked(self) -> Asked:
        """Return the texts."""
        return _texts(self.query, "/query")


class ClassifyRequest(_Foreign):
    """vLLM."""

    input: Input | None = None
    messages: Messages | None = None
    use_activation: UseActivation = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1, le=MAX_TOKENS)
    truncation_side: Literal["left", "right"] | None = None

    def asked(self) -> Asked:
        """Return the texts or the conversation.

        Raises:
            InvalidError: it has both of input and messages, or none.
        """
        if (self.input is None) == (self.messages is None):
            raise InvalidError(
                "Send input or messages.", hint="verl and vLLM's clients send input."
            )
        if self.messages is not None:
            items = [ScoreItem(responses=[canonical(self.messages, "/messages")])]
            found = Asked(items, [["/messages"]])
        else:
            assert self.input is not None
            found = _inputs(self.input)
        cut = self.truncate_prompt_tokens
        truncation: Truncation = "error" if cut is None else self.truncation_side or "left"
        limit = cut if cut and cut > 0 else None
        return Asked(found.items, found.locs, truncation, limit)


class EmbeddingsRequest(_Foreign):
    """SGLang: the route of its reward models."""

    input: Input

    def asked(self) -> Asked:
        """Return the texts."""
        return _inputs(self.input)


class RemoteRmRequest(_Foreign):
    """slime."""

    prompt: Text | Messages
    response: str

    def asked(self) -> Asked:
        """Return the prompt with its reply, which may be parts of a rendered text."""
        prompt = self.prompt
        item = ScoreItem(
            prompt=prompt if isinstance(prompt, str) else canonical(prompt, "/prompt"),
            responses=[self.response],
            may_be_templated=True,
        )
        return Asked([item], [["/response"]])


class EvaluationRequest(_Foreign):
    """LLaMA-Factory: whole texts, rendered with the chat template."""

    messages: Texts

    def asked(self) -> Asked:
        """Return the texts."""
        return _texts(self.messages, "/messages")


class RerankDocument(BaseModel):
    """A document with other fields than its text, which do not matter."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str


class RerankRequest(_Foreign):
    """Jina, Cohere and vLLM with ``documents``; Text Embeddings Inference with ``texts``."""

    query: Text
    documents: (
        Annotated[list[str | RerankDocument], Field(min_length=1, max_length=MAX_REPLIES)] | None
    ) = None
    top_n: int | None = Field(None, ge=0, description="0 means all, as for vLLM.")
    return_documents: bool = True
    use_activation: UseActivation = None
    texts: Texts | None = None
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = False
    truncation_direction: TruncationDirection = "Right"

    def replies(self) -> list[str]:
        """Return the texts to order.

        Raises:
            InvalidError: it has both of documents and texts, or none.
        """
        if (self.documents is None) == (self.texts is None):
            raise InvalidError(
                "Send documents or texts.",
                hint="Clients of vLLM, Jina and Cohere send documents; those of TEI send texts.",
            )
        if self.texts is not None:
            return self.texts
        return [d if isinstance(d, str) else d.text for d in self.documents or ()]

    def asked(self) -> Asked:
        """Return the documents as replies to the query.

        Raises:
            InvalidError: as ``replies``.
        """
        replies = self.replies()
        name = "documents" if self.texts is None else "texts"
        item = ScoreItem(prompt=self.query, responses=list(replies))
        truncation = _SIDES[self.truncation_direction] if self.truncate else "error"
        return Asked([item], [[f"/{name}/{i}" for i in range(len(replies))]], truncation)


class PredictRequest(_Foreign):
    """Text Embeddings Inference: a text, a pair of texts, or a list of either."""

    inputs: str | Texts | Annotated[list[str | Texts], Field(min_length=1, max_length=MAX_REPLIES)]
    raw_scores: bool = False
    truncate: bool | None = False
    truncation_direction: TruncationDirection = "Right"

    @property
    def is_batch(self) -> bool:
        """Whether it has a list of inputs; a list of texts alone is one pair."""
        return not isinstance(self.inputs, str) and any(
            not isinstance(each, str) for each in self.inputs
        )

    def asked(self) -> Asked:
        """Return the texts and pairs.

        Raises:
            ItemInvalidError: an input has more than two texts.
        """
        if self.is_batch:
            inputs = [(each, f"/inputs/{i}") for i, each in enumerate(self.inputs)]
        else:
            inputs = [(self.inputs, "/inputs")]  # type: ignore[list-item]
        items = [_text_or_pair(each, loc) for each, loc in inputs]
        truncation = _SIDES[self.truncation_direction] if self.truncate else "error"
        return Asked(items, [[loc] for _, loc in inputs], truncation)


def _text_or_pair(value: str | list[str], loc: str) -> ScoreItem:
    match value:
        case str(text) | [text]:
            return ScoreItem(text=text)
        case [prompt, reply]:
            return ScoreItem(prompt=prompt, responses=[reply])
    raise text_error(ItemInvalidError, "an input is a text or a pair of texts", loc)


def _texts(texts: Sequence[str], loc: str) -> Asked:
    items = [ScoreItem(text=text) for text in texts]
    return Asked(items, [[f"{loc}/{i}"] for i in range(len(items))])


def _inputs(value: Input) -> Asked:
    """Return the items of an input, which is one text, one list of token ids, or a list of such."""
    if isinstance(value, str | TextPart) or isinstance(value[0], int):
        return Asked([_item(value)], [["/input"]])
    items = [_item(each) for each in value]
    return Asked(items, [[f"/input/{i}"] for i in range(len(items))])


def _item(value: Any) -> ScoreItem:
    if isinstance(value, list):
        return ScoreItem(token_ids=value)
    return ScoreItem(text=value if isinstance(value, str) else value.text)


def usage(tokens: int) -> dict[str, Any]:
    """Return the token counts in the form of OpenAI's API."""
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
