"""The generated code is up to date and matches the responses of the service."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest

import plaudit
from plaudit import AsyncPlaudit, Plaudit, models, params
from plaudit._part_files import ReadOptions
from plaudit._sync.jobs import JobFilter
from tests.client.calls import DOCUMENT, operations

CLIENT = Path(__file__).parents[2] / "client"
PACKAGE = CLIENT / "src" / "plaudit"


def test_generated_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, CLIENT / "generate.py", tmp_path], check=True)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py")}
    kept = {path: (PACKAGE / path).read_text() for path in made}
    assert made == kept, "run `make client-models`"
    sources = {path.name for path in (PACKAGE / "_async").glob("*.py")}
    assert {path.name for path in (PACKAGE / "_sync").glob("*.py")} == sources


def test_id_of_scores_is_the_plain_value_of_the_request() -> None:
    data = {"index": 0, "scores": [0.5], "truncated": [False]}
    assert models.ScoreData.model_validate(data).id is None
    assert models.ScoreData.model_validate({**data, "id": "a"}).id == "a"


def test_twins_that_are_written_by_hand_have_the_same_names() -> None:
    def names(kind: str) -> set[str]:
        tree = ast.parse((PACKAGE / kind / "concurrency.py").read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return {node.name for node in tree.body if isinstance(node, functions)}

    assert names("_async") == names("_sync")


def test_synchronous_client_has_the_methods_of_the_asynchronous_one() -> None:
    assert _signatures(Plaudit) == _signatures(AsyncPlaudit)


def _signatures(client: Any) -> dict[str, list[str]]:
    """Return the parameters of every method of every resource."""
    made = client("http://127.0.0.1:1", "plk_x")
    resources = {"": made} | {n: r for n, r in vars(made).items() if not n.startswith("_")}
    return {
        f"{resource}.{name.removeprefix('a') if name == 'aclose' else name}": list(
            inspect.signature(method).parameters
        )
        for resource, thing in resources.items()
        for name, method in inspect.getmembers(thing, callable)
        if not name.startswith("_")
    }


#: Parameters that have another name in the client.
PARAMETERS = {
    **{
        (name, option): "ReadOptions"
        for name in ("create_dataset", "open_upload")
        for option in ReadOptions.__annotations__
    },
    **{("list_jobs", name): "JobFilter" for name in JobFilter.__annotations__},
    ("open_upload", "name"): "datasets.uploads.create",
    ("put_upload_part", "format"): "datasets.upload",
    ("finish_upload", "parts"): "datasets.uploads.finish",
    **{
        (name, parameter): "datasets.uploads.list, datasets.imports.list"
        for name in ("list_uploads", "list_imports")
        for parameter in ("limit", "after")
    },
    ("create_job", "dry_run"): "preview",
    ("get_job", "wait"): "wait",
    ("get_job", "until"): "wait",
    ("get_evaluation", "wait"): "evaluations.wait",
    ("get_score_batch", "wait"): "score_batches.wait",
    **{
        (name, side): "pairs of an evaluation and an adapter"
        for name in ("compare", "get_comparison_page")
        for side in ("a", "b", "a_adapter", "b_adapter")
    },
    ("list_events", "limit"): "pages of the largest size",
    ("list_evaluation_events", "limit"): "pages of the largest size",
    ("list_score_batch_events", "limit"): "pages of the largest size",
    ("get_logs", "limit"): "pages of the largest size",
}
METHODS = {
    "list_jobs": "jobs.list",
    "list_events": "jobs.events",
    "get_metrics": "jobs.metrics",
    "get_logs": "jobs.logs",
    "get_dataset_report": "datasets.report",
    "list_datasets": "datasets.list",
    "preview_dataset": "datasets.preview",
    "list_adapters": "adapters.list",
    "list_api_keys": "api_keys.list",
    "list_webhooks": "webhooks.list",
    "list_deliveries": "webhooks.deliveries",
    "list_audit": "audit.list",
    "list_usage": "usage.per_day",
    "list_evaluations": "evaluations.list",
    "list_evaluation_events": "evaluations.events",
    "list_score_batch_events": "score_batches.events",
    "list_score_batches": "score_batches.list",
    "get_scores": "evaluations.scores",
    "create_dataset": "datasets.upload",
    "create_scores": ".score",
}


def test_every_query_parameter_can_be_given() -> None:
    signatures = _signatures(Plaudit)
    missing = [
        (name, parameter["name"])
        for name, (_, _, operation) in operations().items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query" and (name, parameter["name"]) not in PARAMETERS
        if {"limit": "page_size"}.get(parameter["name"], parameter["name"])
        not in signatures[METHODS[name]]
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["JobRead", "RewardJobSpec", "AdapterRead", "Problem"])
def test_model_has_the_fields_of_its_schema(name: str) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    assert list(getattr(models, name).model_fields) == list(schema["properties"])


def test_request_is_typed_as_its_schema_says() -> None:
    schema = DOCUMENT["components"]["schemas"]["RewardJobSpec"]
    fields = get_type_hints(params.RewardJobSpec, include_extras=True)
    assert list(fields) == list(schema["properties"])
    required = [name for name, kind in fields.items() if get_origin(kind) is not NotRequired]
    assert required == schema["required"]


def test_answer_of_a_newer_service_is_understood() -> None:
    """New fields and new enumeration values are accepted."""
    failure = {
        "category": "weather",
        "code": "too_cold",
        "step": None,
        "detail": "d",
        "hint": "h",
        "temperature": {"celsius": -4},
    }
    found = models.JobFailure.of_answer(failure)
    assert (found.category, found.code) == ("weather", "too_cold")
    assert found.to_dict() == failure
    assert found.model_extra == {"temperature": {"celsius": -4}}
    spec = {"base_model": "m", "train_dataset": "d", "lora": {"r": 5000, "colour": "red"}}
    assert models.RewardJobSpec.model_validate(spec).lora.r == 5000


def test_every_public_name_is_there() -> None:
    assert sorted(plaudit.__all__) == plaudit.__all__
    for name in plaudit.__all__:
        assert hasattr(plaudit, name)


def test_client_is_typed_for_its_users(tmp_path: Path) -> None:
    """mypy accepts correct uses of the client and reports wrong ones."""
    program = tmp_path / "program.py"
    program.write_text(
        "from plaudit import AsyncPlaudit, Plaudit\n"
        "client = Plaudit()\n"
        "job = client.jobs.create(base_model='m', train_dataset='d', lora={'r': 8})\n"
        "reveal_type(job.spec.lora.r)\n"
        "reveal_type(client.jobs.wait(job.id).adapter_id)\n"
        "reveal_type([found.name for found in client.datasets.list()])\n"
        "async def main() -> None:\n"
        "    reveal_type(await AsyncPlaudit().jobs.get('job_1'))\n"
        "client.jobs.create(base_model='m', train_dataset='d', lora={'rank': 8})\n"
        "client.jobs.create(base_model='m', train_dataset='d', epochs=1)\n"
        "client.jobs.update('job_1', priority='high')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file=", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    said = [line.partition(": ")[2] for line in done.stdout.splitlines() if "program.py" in line]
    notes = [line for line in said if line.startswith("note: Revealed")]
    assert [line.partition("is ")[2] for line in notes] == [
        '"int"',
        '"str | None"',
        '"list[str | None]"',
        '"plaudit._async.job.AsyncJob"',
    ]
    wrong = [line for line in done.stdout.splitlines() if " error:" in line]
    assert {line.split(":")[1] for line in wrong} == {"9", "10", "11"}
