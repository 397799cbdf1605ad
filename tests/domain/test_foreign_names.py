"""Names of other tools lead to fields that exist, and to values that they take."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from typing import Any

import peft
import pytest
import trl

from app.domain.foreign_names import FOREIGN_NAMES, ForeignName
from app.domain.meant_fields import meant_field, similar_field, spec_pointers
from app.domain.spec import RewardJobSpec

NAMES = [(entry, name) for entry in FOREIGN_NAMES for name in entry.names.split()]
VALUES = [entry for entry in FOREIGN_NAMES if entry.value is not None]


def spec(pointer: str, value: object) -> dict[str, Any]:
    """Return the smallest spec with this value at this pointer."""
    document: dict[str, Any] = {"base_model": "any", "train_dataset": f"ds_{0:032x}"}
    *parents, last = pointer.split("/")[1:]
    owner = document
    for name in parents:
        owner = owner.setdefault(name, {})
    owner[last] = value
    return document


@pytest.mark.parametrize("entry", FOREIGN_NAMES, ids=lambda entry: entry.names.split()[0])
def test_every_pointer_is_a_field_of_the_schema(entry: ForeignName) -> None:
    assert entry.pointer is None or entry.pointer in spec_pointers()
    assert entry.parent is None or entry.parent in spec_pointers()
    assert entry.pointer or entry.note
    assert entry.hint.endswith((".", "}"))


@pytest.mark.parametrize("entry", VALUES, ids=lambda entry: entry.names.split()[0])
def test_every_value_is_one_that_the_field_takes(entry: ForeignName) -> None:
    value = f"ds_{1:032x}" if entry.value == "ds_…" else entry.value
    assert entry.pointer is not None
    RewardJobSpec.model_validate(spec(entry.pointer, value))


def test_pointers_of_a_spec_are_those_of_its_json_schema() -> None:
    schema = RewardJobSpec.model_json_schema()

    def walk(node: Any, prefix: str) -> set[str]:
        if isinstance(node, list):
            return {pointer for item in node for pointer in walk(item, prefix)}
        if not isinstance(node, dict):
            return set()
        found = set()
        if reference := node.get("$ref"):
            found |= walk(schema["$defs"][reference.rpartition("/")[2]], prefix)
        for name, field in node.get("properties", {}).items():
            found |= {f"{prefix}/{name}"} | walk(field, f"{prefix}/{name}")
        return found | walk(node.get("anyOf", []), prefix) | walk(node.get("oneOf", []), prefix)

    assert walk(schema, "") == set(spec_pointers())


def test_no_name_is_given_twice_or_is_a_field_already() -> None:
    assert [n for n, count in Counter((e.parent, n) for e, n in NAMES).items() if count > 1] == []
    own = {pointer.rpartition("/")[2] for pointer in spec_pointers()}
    assert [name for entry, name in NAMES if entry.parent is None and name in own] == []
    assert [name for _, name in NAMES if not re.fullmatch(r"[a-z][a-z0-9_]*", name)] == []


def test_no_two_fields_have_the_same_name() -> None:
    """Otherwise a field at the wrong place would be confused with a field of the same name."""
    names = Counter(pointer.rpartition("/")[2] for pointer in spec_pointers())
    assert [name for name, count in names.items() if count > 1] == ["seed"]
    found = meant_field("/lora", "seed")
    assert found is not None
    assert found.pointer == "/training/seed"  # and not that of the split


@pytest.mark.parametrize(
    ("parent", "name", "pointer"),
    [
        ("", "rank", "/lora/r"),
        ("/lora", "rank", "/lora/r"),
        ("/training", "lora_r", "/lora/r"),
        ("", "r", "/lora/r"),
        ("", "alpha", "/lora/alpha"),
        ("/lora", "lora_alpha", "/lora/alpha"),
        ("", "lr", "/training/learning_rate"),
        ("/training", "lr", "/training/learning_rate"),
        ("", "learning_rate", "/training/learning_rate"),
        ("", "learningRate", "/training/learning_rate"),
        ("", "--learning-rate", "/training/learning_rate"),
        ("", "num_train_epochs", "/training/epochs"),
        ("", "n_epochs", "/training/epochs"),
        ("/training", "per_device_train_batch_size", "/training/per_device_batch_size"),
        ("", "batch_size", "/training/batch_size"),
        ("", "dataset", "/train_dataset"),
        ("", "model", "/base_model"),
        ("", "model_name_or_path", "/base_model"),
        ("", "load_in_4bit", "/quantization"),
        ("/training", "bf16", "/training/precision"),
        ("/eval_dataset", "split", "/eval_dataset/fraction"),
        ("/eval_dataset", "test_size", "/eval_dataset/fraction"),
        ("/eval_dataset", "id", "/eval_dataset"),
        ("", "trust_remote_code", None),
    ],
)
def test_name_of_another_tool_leads_to_the_field_that_is_meant(
    parent: str, name: str, pointer: str | None
) -> None:
    found = meant_field(parent, name)
    assert found is not None
    assert found.pointer == pointer


@pytest.mark.parametrize("name", ["", "colour", "shape", "x" * 1_000_000, "\x00", "é", "___"])
def test_name_that_means_nothing_leads_nowhere(name: str) -> None:
    assert meant_field("", name) is None
    assert similar_field(name) is None


def test_nearly_a_name_of_another_tool_is_recognised() -> None:
    found = similar_field("per_device_train_batchsize")
    assert found is not None
    assert found.pointer == "/training/per_device_batch_size"


@pytest.mark.parametrize("config", [trl.RewardConfig, peft.LoraConfig])
def test_every_argument_of_the_installed_libraries_is_known(config: type) -> None:
    names = [field.name for field in dataclasses.fields(config) if field.init]
    assert len(names) > 30
    assert [name for name in names if meant_field("", name) is None] == []
