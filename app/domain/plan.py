"""What a trainer is told, and the facts about a base model that the plan is made from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.domain.training_arguments import (
    EarlyStoppingArguments,
    LoraArguments,
    RewardArguments,
)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseModelFacts(_Frozen):
    """What an inspection of a checkpoint found, without loading its weights.

    ``new_modules`` are the owners of every tensor that the checkpoint lacks (or has in another
    shape) for a one-label sequence classifier: they start random and must be trained and saved.
    """

    model_type: str
    architecture: str = Field(description="The sequence-classification class of transformers.")
    digest: str = Field(description="sha256 over the names and hashes of the model's files.")
    revision: str | None = Field(None, description="Hub commit, 40 hex digits.")
    parameter_count: int
    hidden_size: int
    layer_count: int
    vocab_rows: int = Field(description="Rows of the input embedding.")
    max_positions: int | None = Field(None, description="None: no absolute limit.")
    new_modules: list[str] = Field(description="Full dotted paths, sorted.")
    modules: dict[str, int] = Field(
        description="Every module path of the model: to the number of parameters in it."
    )
    linear_modules: dict[str, tuple[int, int]] = Field(
        description="Linear layers of the text backbone that LoRA may adapt: path to (in, out)."
    )
    attention_modules: list[str] = Field(description="The subset inside attention blocks.")
    is_mixture_of_experts: bool = False
    is_causal: bool = Field(description="The reward is read at the last token.")
    supports_gradient_checkpointing: bool
    pad_token: str | None
    pad_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    spare_pad_tokens: dict[str, int] = Field(
        default={}, description="Unused special tokens with an embedding row of their own."
    )
    chat_template: str | None = None
    tokens_around: tuple[str, str] = Field(
        ("", ""), description="What the tokenizer puts before and after a text by itself."
    )
    tokenizer_from_file: bool = Field(
        False, description="transformers builds another tokenizer than tokenizer.json holds."
    )
    max_token_id: int = Field(description="Largest id that the tokenizer can give.")
    dtype: str = Field("float32", description="Of the checkpoint's weights.")


class BaseModelRef(_Frozen):
    """Which base model; the trainer gets its directory beside the plan, never in it."""

    id: str
    source: str
    revision: str | None = None
    digest: str


class DatasetRef(_Frozen):
    """Which pairs, by content."""

    id: str
    sha256: str
    pair_count: int


class DataPlan(_Frozen):
    """What to train on and what to hold out."""

    train: DatasetRef
    eval: DatasetRef | None = None
    eval_fraction: float | None = None
    format: Literal["text", "conversational"]


class TokenizationPlan(_Frozen):
    """How a pair becomes token ids; a scoring client must do exactly the same."""

    max_length: int
    overlong: Literal["drop", "error"]
    chat_template: str | None = None
    append_eos: bool
    pad_token: str
    pad_token_id: int
    from_file: bool = Field(
        False, description="The tokenizer is its tokenizer.json, not what transformers builds."
    )


class TrainingPlan(_Frozen):
    """Everything a trainer needs to know; frozen, versioned, JSON.

    ``lora`` and ``reward`` are the keyword arguments of ``peft.LoraConfig`` and
    ``trl.RewardConfig``; the trainer adds only what depends on its device and its folders.
    """

    version: Literal[1] = 1
    base_model: BaseModelRef
    architecture: str
    head_modules: list[str] = Field(
        description="Paths that must be trained, saved and reloaded: every new module."
    )
    lora: dict[str, JsonValue]
    reward: dict[str, JsonValue]
    tokenization: TokenizationPlan
    data: DataPlan
    engine: Literal["auto", "shared_prefix", "stock"]
    precision: Literal["auto", "fp32", "bf16"]
    quantization: Literal["none", "8bit", "4bit"]
    gradient_checkpointing: Literal["auto"] | bool
    gpus: int
    early_stopping: dict[str, JsonValue] | None = None
    max_runtime_seconds: int
    trainable_parameters: int
    total_parameters: int

    @property
    def lora_arguments(self) -> LoraArguments:
        """Typed view of ``lora``."""
        return LoraArguments.model_validate(self.lora)

    @property
    def reward_arguments(self) -> RewardArguments:
        """Typed view of ``reward``."""
        return RewardArguments.model_validate(self.reward)

    @property
    def early_stopping_arguments(self) -> EarlyStoppingArguments | None:
        """Typed view of ``early_stopping``; None when training runs to its last step."""
        if self.early_stopping is None:
            return None
        return EarlyStoppingArguments.model_validate(self.early_stopping)

    def lora_kwargs(self) -> dict[str, Any]:
        """Return a fresh copy of ``lora``: PEFT extends the lists that it receives in place."""
        copy: dict[str, Any] = self.model_dump(mode="json", include={"lora"})["lora"]
        return copy

    def reward_kwargs(self) -> dict[str, Any]:
        """Return a fresh copy of ``reward``."""
        copy: dict[str, Any] = self.model_dump(mode="json", include={"reward"})["reward"]
        return copy
