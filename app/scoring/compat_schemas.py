"""Requests of the clients of other reward servers. Fields that do not matter here are ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.scoring.schemas import MAX_REPLIES, Messages, Text

Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_REPLIES)]


class _Foreign(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str | None = None


class GetRewardRequest(_Foreign):
    """OpenRLHF: whole texts, prompt and reply, rendered with the chat template."""

    query: Texts


class ClassifyRequest(_Foreign):
    """vLLM."""

    input: str | Texts | None = None
    messages: Messages | None = None
    use_activation: bool | None = None
    truncate_prompt_tokens: int | None = Field(None, ge=-1, le=1 << 20)
    truncation_side: Literal["left", "right"] | None = None


class EmbeddingsRequest(_Foreign):
    """SGLang: the route of its reward models."""

    input: str | Texts


class RemoteRmRequest(_Foreign):
    """slime."""

    prompt: Text | Messages
    response: str


class EvaluationRequest(_Foreign):
    """LLaMA-Factory: whole texts, rendered with the chat template."""

    messages: Texts


class RerankRequest(_Foreign):
    """Jina, Cohere and vLLM."""

    query: Text
    documents: Annotated[list[str | dict[str, JsonValue]], Field(min_length=1, max_length=1024)]
    top_n: int | None = Field(None, ge=0, le=MAX_REPLIES)
    use_activation: bool | None = None

    def texts(self) -> list[str]:
        """Return the documents' texts."""
        return [d if isinstance(d, str) else str(d.get("text", "")) for d in self.documents]


class PredictRequest(_Foreign):
    """Text Embeddings Inference: a text, a pair of texts, or a list of either."""

    inputs: str | Texts | Annotated[list[Texts], Field(min_length=1, max_length=MAX_REPLIES)]
    raw_scores: bool = False
    truncate: bool | None = False
    truncation_direction: Literal["Left", "Right"] = "Right"

    def parts(self) -> tuple[list[list[str]], bool]:
        """Return the parts of each input, and whether it is a list of inputs."""
        if isinstance(self.inputs, str):
            return [[self.inputs]], False
        if isinstance(self.inputs[0], str):
            return [[str(part) for part in self.inputs]], False
        return [list(each) for each in self.inputs], True


def usage(tokens: int) -> dict[str, Any]:
    """Return the token counts in the form of OpenAI's API."""
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
