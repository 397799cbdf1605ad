"""The job spec. docs/defaults.md compares its defaults with those of TRL and PEFT."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
)
from pydantic_core import PydanticCustomError

from app.domain.training_spec import BitsAndBytesOptimizer, CleanText, SpecPart, TrainingSpec

BASE_MODEL_ID = r"^[a-z0-9][a-z0-9._-]{0,63}$"
DATASET_ID = r"^ds_[0-9a-f]{32}$"
ModuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]{1,200}$")]
#: Validation stops at the first invalid name, because the client chooses the length of the list.
TargetModules = Annotated[list[ModuleName], Field(max_length=2048, fail_fast=True)]
#: Any text, because the catalogue suggests an id for the name of a hub repository.
BaseModelName = Annotated[CleanText, StringConstraints(min_length=1, max_length=200)]


class EvalFraction(SpecPart):
    """Hold out a fraction of the training pairs."""

    fraction: float = Field(
        gt=0, lt=1, description="Fraction of the training pairs, between 0 and 1."
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=2**32 - 1,
        description="Seed that selects the held-out pairs. null: every job on the dataset holds "
        "out the same pairs, independently of training.seed.",
    )


def _evaluation_form(value: Any) -> str | None:
    if isinstance(value, str):
        return "by id"
    return "held out" if isinstance(value, dict | EvalFraction) else None


#: The type is chosen before the value is validated, so that an error describes one type only.
Evaluation = Annotated[
    Annotated[str, StringConstraints(pattern=DATASET_ID), Tag("by id")]
    | Annotated[EvalFraction, Tag("held out")],
    Discriminator(
        _evaluation_form,
        custom_error_type="eval_dataset_form",
        custom_error_message="Should be a dataset id (a string) or an object with a fraction",
    ),
]


MAX_EVAL_DATASETS = 8
#: The name is a part of the names of metrics, which have at most 64 characters.
EvalName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,23}$")]


def _check_eval_datasets(value: Any) -> Any:
    """Reject too many entries before any of them is validated, and names that are taken."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_EVAL_DATASETS:
        raise PydanticCustomError(
            "too_long",
            "eval_datasets may have at most {limit} entries, not {found}",
            {"limit": MAX_EVAL_DATASETS, "found": len(value)},
        )
    for name in value:
        if isinstance(name, str) and (name == "before" or name.startswith("before_")):
            raise PydanticCustomError(
                "reserved_name",
                "{name} cannot name a dataset: eval_before is where the metrics before training "
                "are. Use another name",
                {"name": name[:64]},
            )
    return value


EvalDatasets = Annotated[
    dict[EvalName, Annotated[str, StringConstraints(pattern=DATASET_ID)]],
    Field(max_length=MAX_EVAL_DATASETS),
    BeforeValidator(_check_eval_datasets),
]


class LoraSpec(SpecPart):
    """The LoRA adapter. The reward head is always trained and saved in full."""

    task_type: Literal["SEQ_CLS"] = Field(
        "SEQ_CLS", description="Always SEQ_CLS: no other task type trains a reward head."
    )
    r: int = Field(16, ge=1, le=1024, description="Rank of the LoRA matrices.")
    alpha: int = Field(
        32, ge=1, le=65536, description="Numerator of the scale of the adapter, alpha / r."
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Applies to the LoRA layers only; base-model dropout is always off. A value "
        "above 0 rules out the shared-prefix engine.",
    )
    target_modules: Literal["auto", "all-linear"] | TargetModules = Field(
        "auto",
        description="'auto' and 'all-linear' adapt every linear layer of the backbone, or only the "
        "attention projections of a mixture of experts. In a list, each name must match a layer.",
    )
    modules_to_save: Annotated[list[ModuleName], Field(max_length=32, fail_fast=True)] = Field(
        default=[],
        description="Further modules that are trained and saved in full, besides the reward head.",
    )
    use_rslora: bool = Field(
        False, description="Rank-stabilised LoRA: the scale is alpha / sqrt(r)."
    )
    use_dora: bool = Field(False, description="Weight-decomposed LoRA (DoRA).")
    init: Literal["default", "gaussian", "orthogonal"] = Field(
        "default",
        description="How the LoRA matrices start: PEFT's default (A random, B zero), A Gaussian "
        "and B zero, or orthogonal.",
    )

    @field_validator("task_type", mode="before")
    @classmethod
    def _task_type_is_not_a_choice(cls, value: Any) -> Any:
        if value != "SEQ_CLS":
            raise PydanticCustomError(
                "task_type_fixed",
                "task_type must be SEQ_CLS: any other value would leave the reward head untrained "
                "and outside the adapter. Remove the field.",
            )
        return value

    @field_validator("modules_to_save", mode="before")
    @classmethod
    def _head_stays(cls, value: Any) -> Any:
        if value is None:
            raise PydanticCustomError(
                "head_removed",
                "modules_to_save cannot be null: the reward head is always trained and saved. "
                "Use a list of further modules, or remove the field.",
            )
        return value

    @field_validator("target_modules")
    @classmethod
    def _targets_are_named(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise PydanticCustomError(
                "target_modules_empty",
                "target_modules needs 1 to 2048 names, or 'auto' or 'all-linear'.",
            )
        return value


class Resources(SpecPart):
    """Resources that the job may use."""

    gpus: Literal[0, 1] = Field(1, description="0: CPU only; 1: a GPU if the worker has one.")
    max_runtime_seconds: int = Field(
        86_400,
        ge=1,
        le=30 * 86_400,
        description="Seconds that all attempts of the job may run together; then it fails. The "
        "default is lowered to the operator's limit.",
    )


MAX_METADATA = 16
MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MetadataValue = Annotated[CleanText, StringConstraints(max_length=512)]


def _check_metadata_length(value: Any) -> Any:
    """Reject too many entries before any of them is validated."""
    if isinstance(value, dict) and len(value) > MAX_METADATA:
        raise PydanticCustomError(
            "too_long",
            "metadata may have at most {limit} entries, not {found}",
            {"limit": MAX_METADATA, "found": len(value)},
        )
    return value


Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    Field(max_length=MAX_METADATA),
    BeforeValidator(_check_metadata_length),
]


class RewardJobSpec(SpecPart):
    """A reward-model training job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "helpfulness-v3",
                    "base_model": "all-minilm-l6-v2",
                    "train_dataset": "ds_0199d8d0c5f57cc0a5a8c4cf3cb1a001",
                    "eval_dataset": {"fraction": 0.1},
                }
            ]
        }
    )

    name: Annotated[CleanText, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="For people; need not be unique."
    )
    base_model: BaseModelName = Field(description="An id from GET /v1/base-models.")
    base_model_head: Literal["auto", "reuse", "new"] = Field(
        "auto",
        description="'auto' starts from the trained reward head of the base model, if its files "
        "have one that fits, and otherwise from a random head; 'reuse' refuses base models without "
        "such a head; 'new' always starts from a random head.",
    )
    train_dataset: str = Field(
        pattern=DATASET_ID, description="The id of the dataset to train on, from GET /v1/datasets."
    )
    eval_dataset: Evaluation | None = Field(
        None,
        description="The id of a dataset, or a fraction of the training pairs such as "
        '{"fraction": 0.1}.',
    )
    eval_datasets: EvalDatasets = Field(
        default={},
        description="Further datasets to evaluate on, by name, besides eval_dataset or without it. "
        'The metrics of {"maths": "ds_…"} are eval_maths/accuracy and so on.',
    )
    lora: LoraSpec = Field(default_factory=lambda: LoraSpec())
    training: TrainingSpec = Field(default_factory=lambda: TrainingSpec())
    quantization: Literal["none", "8bit", "4bit"] = Field(
        "none",
        description="How bitsandbytes stores the linear layers of the base model: LLM.int8 or NF4; "
        "needs a CUDA GPU. The adapter and the head are not quantised.",
    )
    resources: Resources = Field(default_factory=lambda: Resources())
    priority: int = Field(0, ge=-100, le=100, description="Jobs with a higher priority run first.")
    metadata: Metadata = Field(
        default={}, description="Texts by name, for people and to filter lists of jobs."
    )

    @property
    def needs_gpu(self) -> bool:
        """Whether no CPU can run the job: bitsandbytes trains on GPUs only."""
        optimizers = get_args(BitsAndBytesOptimizer)
        return self.quantization != "none" or self.training.optimizer in optimizers
