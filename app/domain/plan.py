"""The training plan, and the facts about a base model that it is compiled from."""

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
    """The result of inspecting a checkpoint without loading its weights.

    ``new_modules`` own the tensors that a sequence classifier with one label needs and that the
    checkpoint lacks or has in another shape. They start random, so they must be trained and saved.
    """

    model_type: str
    architecture: str = Field(description="Name of the sequence-classification class.")
    digest: str = Field(description="sha256 over the names and hashes of the model's files.")
    revision: str | None = Field(None, description="Hub commit, 40 hex digits.")
    parameter_count: int
    hidden_size: int
    layer_count: int
    vocab_rows: int = Field(description="Rows of the input embedding.")
    max_positions: int | None = Field(None, description="None: no absolute limit.")
    new_modules: list[str] = Field(description="Full dotted paths, sorted.")
    head_tensors: dict[str, str] = Field(
        default={},
        description="Parameters of the head that the files have, with the names of their tensors.",
    )
    unused_heads: list[str] = Field(
        default=[], description="Tensors that look like a trained head and do not fit, with shapes."
    )
    modules: dict[str, int] = Field(
        description="Number of parameters of each module, by dotted path."
    )
    linear_modules: dict[str, tuple[int, int]] = Field(
        description="Shape (in, out) of each linear layer that LoRA may adapt, by dotted path."
    )
    attention_modules: list[str] = Field(description="The linear modules of attention blocks.")
    is_mixture_of_experts: bool = False
    is_causal: bool = Field(description="Whether the reward is read at the last token.")
    supports_gradient_checkpointing: bool
    pad_token: str | None
    pad_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    spare_pad_tokens: dict[str, int] = Field(
        default={}, description="Unused special tokens that have an embedding row, with their ids."
    )
    special_tokens: dict[str, int] = Field(
        default={}, description="Special tokens that have an embedding row, with their ids."
    )
    final_token_id: int | None = Field(
        None, description="Last token of a conversation that the chat template renders."
    )
    unembedded_in_texts: dict[str, int] = Field(
        default={},
        description="Tokens without an embedding row that the tokenizer adds to every text, with "
        "their ids.",
    )
    unembedded_in_conversations: dict[str, int] = Field(
        default={},
        description="Tokens without an embedding row that the chat template writes into every "
        "conversation, with their ids.",
    )
    chat_template: str | None = None
    tokens_around: tuple[str, str] = Field(
        ("", ""), description="Tokens that the tokenizer adds before and after a text, as text."
    )
    tokenizer_from_file: bool = Field(
        False,
        description="Whether tokenizer.json is used because transformers builds another tokenizer.",
    )
    max_token_id: int = Field(description="Largest token id of the tokenizer.")
    dtype: str = Field("float32", description="Data type of the checkpoint's weights.")


class BaseModelRef(_Frozen):
    """Identity of a base model. The order names its directory; the plan does not."""

    id: str
    source: str
    revision: str | None = None
    digest: str


class DatasetNote(_Frozen):
    """A warning about a dataset, found when it was uploaded; ``code`` is a ``WarningCode``."""

    code: str
    message: str
    lines: list[int] = Field(
        default=[],
        # Plans of earlier versions have no such field, and a plan's hash must stay what it was.
        exclude_if=lambda lines: not lines,
        description="The first affected lines of the upload.",
    )

    def sentence(self) -> str:
        """Return the message and its lines."""
        if not self.lines:
            return self.message
        noun = "line" if len(self.lines) == 1 else "lines"
        return f"{self.message} ({noun} {', '.join(map(str, self.lines))})"


class DatasetRef(_Frozen):
    """Reference to a dataset, with the digest of its content."""

    id: str
    sha256: str
    pair_count: int
    skippable_share: float = Field(
        0.0,
        exclude_if=lambda share: not share,
        description="Share of rows that a job may skip because they cannot be rendered.",
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        default={},
        exclude_if=lambda variables: not variables,
        description="Variables of the chat template that the upload gave for all rows.",
    )
    warnings: list[DatasetNote] = Field(
        default=[],
        exclude_if=lambda warnings: not warnings,
        description="Warnings about the upload: skipped rows, ignored columns, suspicious data.",
    )


class DataPlan(_Frozen):
    """The pairs to train on and the pairs to hold out."""

    train: DatasetRef
    eval: DatasetRef | None = None
    eval_datasets: dict[str, DatasetRef] = Field(
        default={},
        exclude_if=lambda named: not named,  # as in plans of earlier versions
        description="Further datasets to evaluate on, by name, in the order of their names.",
    )
    eval_fraction: float | None = None
    eval_seed: int | None = Field(
        None,
        exclude_if=lambda seed: seed is None,  # as in plans of earlier versions
        description="Seed of the split. Plans of earlier versions have none and use the training "
        "seed.",
    )
    format: Literal["text", "conversational"] = Field(
        description="Format of the tokenised pairs; texts that become chat turns are "
        "conversational."
    )
    pairs_per_prompt: int | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="Number of training pairs per row with ranked replies; None: all.",
    )

    @property
    def has_eval(self) -> bool:
        """Whether there are pairs to evaluate on."""
        is_split = self.eval_fraction is not None
        return self.eval is not None or is_split or bool(self.eval_datasets)


class TokenizationPlan(_Frozen):
    """Settings of tokenisation. A scoring client must tokenise in the same way."""

    max_length: int
    overlong: Literal["drop", "error", "truncate_left"]
    chat_template: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        default={},
        exclude_if=lambda variables: not variables,  # as in plans of earlier versions
        description="Variables that are set in the chat template, by the job or the dataset.",
    )
    append_eos: bool
    text_format: Literal["chat", "raw"] | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="How datasets of texts are tokenised: as chat turns, or unchanged.",
    )
    pad_token: str
    pad_token_id: int
    from_file: bool = Field(
        False,
        description="Whether to load tokenizer.json instead of the tokenizer that transformers "
        "builds.",
    )
    embedding_rows: int | None = Field(
        None,
        exclude_if=lambda rows: rows is None,  # as in plans of earlier versions
        description="Rows of the embedding, if the tokenizer has tokens beyond them.",
    )


class HeadPlan(_Frozen):
    """Initial weights of the reward head."""

    start: Literal["base_model", "new"] = Field(
        description="Weights of the base model's files, or random ones."
    )
    tensors: dict[str, str] = Field(
        default={}, description="Parameters of the head, with the stored tensors they start from."
    )
    is_reset: bool = Field(False, description="Whether a trained head is initialised again.")
    unused: list[str] = Field(
        default=[], description="Stored tensors that look like a trained head and are not used."
    )


class TrainingPlan(_Frozen):
    """All decisions of a training run, as versioned JSON.

    ``lora`` and ``reward`` are the keyword arguments of ``peft.LoraConfig`` and
    ``trl.RewardConfig``. The trainer adds only what depends on its device and directories.
    """

    version: Literal[1] = 1
    base_model: BaseModelRef
    architecture: str
    head_modules: list[str] = Field(
        description="Paths of the new modules, which must be trained, saved and reloaded."
    )
    head: HeadPlan | None = Field(
        None,
        exclude_if=lambda head: head is None,  # as in plans of earlier versions
        description="Initial weights of the reward head.",
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
    # Plans of earlier versions have no such field, and a plan's hash must stay what it was.
    resume: Literal["continue", "exact"] = Field(
        "continue", exclude_if=lambda resume: resume == "continue"
    )
    early_stopping: dict[str, JsonValue] | None = None
    max_runtime_seconds: int
    trainable_parameters: int
    total_parameters: int

    def data_warnings(self) -> list[dict[str, str]]:
        """Return the warnings of the datasets in the form of job warnings."""
        named = (
            ("training", self.data.train),
            ("evaluation", self.data.eval),
            *((f"evaluation ({name})", data) for name, data in self.data.eval_datasets.items()),
        )
        return [
            {"code": note.code, "message": f"{name} dataset: {note.sentence()}"}
            for name, dataset in named
            if dataset is not None
            for note in dataset.warnings
        ]

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
