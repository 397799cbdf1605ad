"""Options that several commands on jobs have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.cli.exit_codes import CommandError, ExitCode
from app.cli.short_ids import full_id
from plaudit import Plaudit

JobId = Annotated[str, typer.Argument(help="Id (job_…) or its first digits.")]
WatchOption = Annotated[
    bool, typer.Option("--watch", "-w", help="Follow the job; the exit code tells how it ended.")
]
DatasetOption = Annotated[str | None, typer.Option(help="Dataset to train on; overrides the spec.")]
EvalDatasetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--eval-dataset",
        metavar="[NAME=]ID",
        help="Dataset to evaluate on; overrides the spec. With a name, such as maths=ds_…, it is "
        "one of the eval_datasets; repeatable.",
    ),
]
BaseModelOption = Annotated[str | None, typer.Option(help="Base model; overrides the spec.")]


def with_datasets(
    client: Plaudit, document: dict[str, Any], dataset: str | None, evaluations: list[str] | None
) -> dict[str, Any]:
    """Return a spec, or a part of one, with the datasets of --dataset and --eval-dataset.

    Raises:
        CommandError: an id is not that of one dataset.
    """
    found = dict(document)
    if dataset is not None:
        found["train_dataset"] = full_id(client, "ds", dataset)
    for given in evaluations or []:
        name, is_named, dataset_id = given.rpartition("=")
        if not is_named:
            found["eval_dataset"] = full_id(client, "ds", dataset_id)
            continue
        if not name:
            raise CommandError(
                f'--eval-dataset {given} has no name before the "=".',
                ExitCode.USAGE,
                "Write it like --eval-dataset maths=ds_…, or give the id alone.",
            )
        known = found.get("eval_datasets")
        named = dict(known) if isinstance(known, dict) else {}
        found["eval_datasets"] = {**named, name: full_id(client, "ds", dataset_id)}
    return found
