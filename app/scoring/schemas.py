"""Request and response models of scoring."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from app.domain.scoring import Truncation

ADAPTER_ID = r"^ad_[0-9a-f]{32}$"
#: Replies in one request, over all of its groups.
MAX_REPLIES = 4096
MAX_MESSAGES = 1024
MAX_MEMBERS = 16

AdapterId = Annotated[str, Field(pattern=ADAPTER_ID)]
Messages = Annotated[list[dict[str, JsonValue]], Field(min_length=1, max_length=MAX_MESSAGES)]
Text = Annotated[str, Field(min_length=1)]
Normalize = Literal["none", "zscore", "sigmoid"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Ensemble(_Strict):
    """Several adapters of one base model, whose scores are normalised and combined."""

    ensemble: list[AdapterId] = Field(
        min_length=2, max_length=MAX_MEMBERS, description="Ids of the members."
    )
    reduce: Literal["mean", "min", "lcb"] = Field(
        "mean", description="lcb: mean minus `lambda` times the members' standard deviation."
    )
    lambda_: float = Field(1.0, ge=0, le=100, alias="lambda", description="Weight in lcb.")


class ScoreGroup(_Strict):
    """One prompt and the replies to it."""

    id: JsonValue = Field(None, description="Returned unchanged.")
    prompt: str | Messages | None = Field(
        None, description="Text, or messages. A text becomes the user's message for a chat adapter."
    )
    responses: list[str | Messages] = Field(min_length=1, max_length=MAX_REPLIES)


class ScoreInput(_Strict):
    """One text: a prompt with a response, a conversation, or a text with its template."""

    id: JsonValue = Field(None, description="Returned unchanged.")
    prompt: str | Messages | None = None
    response: str | Messages | None = None
    messages: Messages | None = Field(None, description="A conversation with its reply at the end.")
    text: Text | None = Field(None, description="A whole text, rendered with the chat template.")

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        forms = [self.response is not None, self.messages is not None, self.text is not None]
        if sum(forms) != 1 or (self.prompt is not None and self.response is None):
            raise ValueError(
                "needs exactly one of response (with or without prompt), messages, text"
            )
        return self


class ScoreRequest(_Strict):
    """What to score, and how."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "ad_0197d5a4c2de7f3a8b6e0d1c2b3a4f5e",
                    "groups": [{"prompt": "What is tea?", "responses": ["A drink.", "No."]}],
                }
            ]
        }
    )

    model: AdapterId | Ensemble = Field(description="Id of an adapter, or an ensemble.")
    groups: list[ScoreGroup] | None = Field(None, min_length=1, max_length=MAX_REPLIES)
    inputs: list[ScoreInput] | None = Field(None, min_length=1, max_length=MAX_REPLIES)
    normalize: Normalize = Field(
        "none",
        description="zscore: by the adapter's mean and deviation on its held-out pairs. sigmoid: "
        "between 0 and 1.",
    )
    truncation: Truncation = Field(
        "error", description="What happens to longer texts; left and right name the side cut off."
    )
    max_length: int | None = Field(
        None, ge=1, le=1 << 20, description="Tokens; default: the adapter's own `max_length`."
    )
    deterministic: bool = Field(
        False,
        description="Compute each text on its own: its score does not depend on other texts, bit "
        "for bit. This is slower.",
    )
    return_: list[Literal["tokens", "members"]] = Field([], alias="return", max_length=2)

    @model_validator(mode="after")
    def _has_one_list(self) -> Self:
        if (self.groups is None) == (self.inputs is None):
            raise ValueError("needs exactly one of groups and inputs")
        if self.groups and sum(len(group.responses) for group in self.groups) > MAX_REPLIES:
            raise ValueError(f"holds more than {MAX_REPLIES} responses; send several requests")
        return self


class ScoreData(BaseModel):
    """The scores of a group, in the order of its responses."""

    index: int
    id: JsonValue = None
    scores: list[float]
    truncated: list[bool]
    tokens: list[int] | None = Field(None, description="Tokens of each text, if requested.")
    std: list[float] | None = Field(
        None, description="Standard deviation of the members of an ensemble."
    )
    members: list[list[float]] | None = Field(
        None, description="Normalised scores of each member of an ensemble, if requested."
    )


class ScoreUsage(BaseModel):
    """Tokens of the request."""

    prompt_tokens: int
    computed_tokens: int = Field(description="Shared prompts count once.")


class ScoreResponse(BaseModel):
    """All scores of a request."""

    object: Literal["list"] = "list"
    model: str
    score_spec: str = Field(description="Digest of everything that the scores depend on.")
    data: list[ScoreData]
    usage: ScoreUsage

    def headers(self) -> dict[str, str]:
        """Return the fields that the response has in its headers too."""
        return {"X-Plaudit-Adapter": self.model, "X-Plaudit-Score-Spec": self.score_spec}
