"""docs/defaults.md compared with the spec and the installed libraries."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from pydantic import BaseModel
from transformers import EarlyStoppingCallback
from trl.trainer.model_config import ModelConfig
from trl.trainer.reward_config import RewardConfig

from app.core.settings import Settings
from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.meant_fields import spec_pointers
from app.domain.spec import LoraSpec, RewardJobSpec
from app.domain.training_spec import EarlyStopping, TrainingSpec
from tests.domain.base_model_facts import TEXT, dataset, job
from tests.model_factories.architectures import make_base_model
from worker.reward_model.loading import DeviceConfig, load_base
from worker.trainer.inspection.base_model import inspect_base_model
from worker.trainer.training.lora import add_lora
from worker.trainer.training.reward_trainer import reward_config

PAGE = Path(__file__).parent.parent / "docs" / "defaults.md"
#: Arguments without a value on the page, because they depend on the job or the machine.
OF_THE_JOB = {
    "RewardConfig.output_dir",
    "RewardConfig.dataloader_pin_memory",
    "RewardConfig.activation_checkpointing",  # transformers' new name of gradient_checkpointing
}
NO_CELL = "–"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the page: a field or argument, our value, and those of the libraries."""

    name: str
    ours: Any
    theirs: dict[str, Any]
    """Return the defaults by ``Class.argument``."""
    reason: str


def rows() -> Iterator[Row]:
    header: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not set(line) <= set("|-"):
            name = cells[0].strip("`")
            theirs = dict(_named(header[i], cells[i], name) for i in range(2, len(cells) - 1)
                          if cells[i] != NO_CELL)  # fmt: skip
            yield Row(name, _value(cells[1]), theirs, cells[-1])


def _named(column: str, cell: str, name: str) -> tuple[str, Any]:
    if column == "default":
        return name, _value(cell)
    classes = {"`LoraConfig`": "LoraConfig", "`trl reward`": "ModelConfig"}
    argument, value = re.fullmatch(r"`(\w+)`: (`.*`)", cell).groups()  # type: ignore[union-attr]
    return f"{classes.get(column, 'RewardConfig')}.{argument}", _value(value)


def _value(cell: str) -> Any:
    return json.loads(cell.strip("`"))


ROWS = list(rows())
FIELDS = [row for row in ROWS if row.name.startswith("/")]
ARGUMENTS = [row for row in ROWS if not row.name.startswith("/")]
# transformers renames gradient checkpointing; PEFT and TRL still say the old name.
renamed = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
CLASSES = {"LoraConfig": LoraConfig, "ModelConfig": ModelConfig, "RewardConfig": RewardConfig}


def library_defaults(config: Any) -> dict[str, Any]:
    return {
        field.name: field.default
        if field.default is not dataclasses.MISSING
        else field.default_factory()
        for field in dataclasses.fields(config)
        if dataclasses.MISSING in (field.default, field.default_factory)
        and (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
    }


def our_default(pointer: str) -> Any:
    owner: type[BaseModel] = RewardJobSpec
    *parents, last = pointer.split("/")[1:]
    for name in parents:
        nested = {"lora": LoraSpec, "training": TrainingSpec, "early_stopping": EarlyStopping}
        owner = nested[name]
    return owner.model_fields[last].get_default(call_default_factory=True)


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two values are equal; a boolean never equals a number."""
    return (type(ours) is bool) == (type(theirs) is bool) and ours == theirs


@pytest.mark.parametrize("row", FIELDS, ids=lambda row: row.name)
def test_default_of_the_spec_is_what_the_page_says(row: Row) -> None:
    assert our_default(row.name) == row.ours


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_default_of_the_library_is_what_the_page_says(row: Row) -> None:
    for name, value in row.theirs.items():
        config, _, argument = name.partition(".")
        assert library_defaults(CLASSES[config])[argument] == value, name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_difference_has_a_reason(row: Row) -> None:
    is_same = bool(row.theirs) and all(same(row.ours, value) for value in row.theirs.values())
    assert is_same or row.reason


def test_every_field_of_adapter_and_training_is_on_the_page() -> None:
    wanted = {p for p in spec_pointers() if p.startswith(("/lora/", "/training/"))}
    assert {row.name for row in FIELDS} == wanted | {"/base_model_head", "/quantization"}


@renamed
def test_every_other_argument_that_a_job_changes_is_on_the_page(tmp_path: Path) -> None:
    told = {row.name: row.ours for row in ARGUMENTS}
    of_fields = {name for row in FIELDS for name in row.theirs}
    found = {}
    for name, plain, ours in configurations(tmp_path):
        for field in dataclasses.fields(plain):
            default, value = getattr(plain, field.name), getattr(ours, field.name)
            if not same(value, default):
                found[f"{name}.{field.name}"] = value
    assert found.keys() - of_fields - OF_THE_JOB == told.keys() - of_fields
    assert {name: found[name] for name in told} == told


def configurations(directory: Path) -> Iterator[tuple[str, Any, Any]]:
    """Return the libraries' own configurations, and those of a spec with required fields only."""
    checkpoint = make_base_model(directory, "llama")
    facts = inspect_base_model(checkpoint, revision=None, chat_template=None, digest="0" * 64)
    plan = compile_plan(job(), "hub:a/b@main", facts, JobData(dataset(), None, TEXT))
    cpu = DeviceConfig("cpu", bf16=False)
    model = add_lora(load_base(str(checkpoint), cpu, plan.head_modules), plan)
    yield "LoraConfig", LoraConfig(), LoraConfig(**plan.lora_kwargs())
    plain = RewardConfig(output_dir=str(directory), use_cpu=True, bf16=False)
    yield "RewardConfig", plain, reward_config(plan, cpu, model)


def test_early_stopping_differs_from_the_callback_as_the_page_says() -> None:
    callback = EarlyStoppingCallback()
    assert callback.early_stopping_patience == 1
    assert callback.early_stopping_threshold == our_default("/training/early_stopping/min_delta")


def test_checkpoints_are_as_far_apart_as_the_page_says() -> None:
    assert Settings.model_fields["checkpoint_seconds"].default == 5 * 60
