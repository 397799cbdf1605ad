"""The spec that the API returns for a job can be submitted again, and gives the same plan."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.base_models.catalogue import load_catalogue
from app.base_models.facts import store_facts
from app.core.database import transaction
from app.core.settings import Settings
from app.domain.meant_fields import spec_pointers
from app.domain.plan import BaseModelFacts
from tests.domain.base_model_facts import decoder, encoder
from tests.world import BASE_MODEL, World

NO_PAD_TOKEN = {"pad_token": None, "pad_token_id": None, "spare_pad_tokens": {"<unk>": 1}}
HEAD = {"score.weight": "value_head.weight"}
#: Base models that differ in what defaults depend on.
MODELS = {
    "no-head": decoder(special_tokens={"<a>": 9}),
    "trained-head": decoder(special_tokens={"<a>": 9}, head_tensors=HEAD),
    "two-row-head": decoder(special_tokens={"<a>": 9}, unused_heads=["score.weight [2, 32]"]),
    "no-pad-token": decoder(special_tokens={"<a>": 9}, **NO_PAD_TOKEN),
    "few-positions": encoder(special_tokens={"<a>": 9}, max_positions=128),
}
#: Specs that together set every field. EVAL stands for a dataset's id.
SPECS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "names": {
        "name": "x",
        "priority": -3,
        "metadata": {"team": "a"},
        "resources": {"gpus": 0, "max_runtime_seconds": 60},
    },
    "new-head": {"base_model_head": "new"},
    "evaluation": {
        "eval_dataset": {"fraction": 0.25, "seed": 7},
        "eval_datasets": {"maths": "EVAL"},
        "training": {
            "eval_steps": 2,
            "checkpoint_steps": 4,
            "early_stopping": {"patience": 2, "min_delta": 0.1, "monitored_dataset": "maths"},
        },
    },
    "stable-split": {"eval_dataset": {"fraction": 0.25}, "training": {"seed": 1}},
    "eval-dataset": {
        "eval_dataset": "EVAL",
        "training": {"eval_steps": 3, "early_stopping": {"patience": 1}},
    },
    "lora": {
        "lora": {
            "task_type": "SEQ_CLS",
            "r": 4,
            "alpha": 5,
            "dropout": 0.1,
            "target_modules": "all-linear",
            "modules_to_save": [],
            "use_rslora": True,
            "use_dora": True,
            "init": "gaussian",
        }
    },
    "optimisation": {
        "training": {
            "epochs": 1.5,
            "max_steps": 7,
            "learning_rate": 3e-5,
            "lr_scheduler": "cosine_with_restarts",
            "lr_cycles": 3,
            "warmup_steps": 2,
            "optimizer": "adagrad",
            "weight_decay": 0.01,
            "max_grad_norm": 0.5,
            "batch_size": 6,
            "per_device_batch_size": 3,
            "center_rewards_coefficient": 0.01,
            "logging_steps": 5,
        }
    },
    "tokens": {
        "training": {
            "max_length": 100,
            "overlong": "truncate_left",
            "pad_token": "<a>",
            "text_format": "chat",
            "chat_template": "{% for m in messages %}{{ m.content }}!{% endfor %}",
            "chat_template_kwargs": {"think": False, "n": 1, "x": 1.0, "big": 10**17, "s": "é"},
            "pairs_per_prompt": 2,
        }
    },
    "raw-texts": {"training": {"text_format": "raw", "warmup_ratio": 0.1}},
    "execution": {
        "quantization": "8bit",
        "training": {
            "gradient_checkpointing": False,
            "precision": "fp32",
            "engine": "stock",
            "resume": "exact",
        },
    },
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # Less than the default of a spec.
    return settings.model_copy(update={"quota_runtime_seconds": 3600})


def pointers(document: Any, prefix: str = "") -> set[str]:
    if not isinstance(document, dict):
        return {prefix}
    known = set(spec_pointers())
    if not any(pointer.startswith(f"{prefix}/") for pointer in known):
        return {prefix}
    return set().union({prefix}, *(pointers(v, f"{prefix}/{k}") for k, v in document.items()))


def filled(document: Any, dataset: str) -> Any:
    if isinstance(document, dict):
        return {name: filled(value, dataset) for name, value in document.items()}
    return dataset if document == "EVAL" else document


def know(world: World, facts: BaseModelFacts) -> None:
    with transaction(world.engine) as session:
        store_facts(session, load_catalogue().get(BASE_MODEL), facts)


def test_specs_set_every_field() -> None:
    found = set().union(*(pointers(spec) for spec in SPECS.values()))
    assert set(spec_pointers()) - {"/base_model", "/train_dataset"} <= found


@pytest.mark.parametrize("name", MODELS)
def test_returned_spec_is_accepted_and_gives_the_same_plan(
    world: World, client: TestClient, name: str
) -> None:
    know(world, MODELS[name])
    dataset = world.upload()["id"]
    for title, changes in SPECS.items():
        job = world.submit(train_dataset=dataset, **filled(changes, dataset))
        returned = world.get(job)["spec"]
        again = client.post("/v1/jobs", json=returned)
        assert again.status_code == 201, (title, again.text)
        assert world.get(again.json())["spec"] == returned, title
        clone = client.post(f"/v1/jobs/{again.json()['id']}/clone", json={})
        assert clone.status_code == 201, (title, clone.text)
        preview = client.post("/v1/jobs?dry_run=true", json=returned).json()
        assert preview["spec"] == returned, title
        plans = [each["plan"] for each in (job, again.json(), clone.json(), preview)]
        assert plans == [job["plan"]] * 4, title


@pytest.mark.parametrize("name", MODELS)
def test_spec_of_a_job_that_was_submitted_before_an_inspection_is_accepted_after_it(
    world: World, client: TestClient, name: str
) -> None:
    job = world.submit()
    assert job["plan"] is None
    know(world, MODELS[name])
    plain = client.post("/v1/jobs", json=world.spec(train_dataset=job["spec"]["train_dataset"]))
    again = client.post("/v1/jobs", json=world.get(job)["spec"])
    assert again.status_code == 201, again.text
    assert again.json()["plan"] == plain.json()["plan"]
    assert again.json()["plan"] is not None


def test_head_that_is_required_is_a_choice_of_its_own(world: World, client: TestClient) -> None:
    dataset = world.upload()["id"]
    spec = world.spec(train_dataset=dataset, base_model_head="reuse")
    know(world, MODELS["trained-head"])
    job = world.submit(**spec)
    assert job["plan"]["head"]["tensors"] == HEAD
    assert client.post("/v1/jobs", json=world.get(job)["spec"]).status_code == 201
    assert world.submit(train_dataset=dataset)["plan"]["head"]["tensors"] == HEAD
