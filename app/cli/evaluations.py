"""``plaudit evaluate`` and ``plaudit evaluations``: judge adapters from the command line."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.evaluation_display import scored, show_evaluation
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import (
    AfterOption,
    JsonOption,
    LimitOption,
    moment,
    notes,
    plain,
    print_page,
)
from app.cli.short_ids import full_id
from app.cli.watching import watch_evaluation
from app.domain.evaluation import MAX_SEED, UNTRAINED, Overlong
from app.domain.judging.probes import MAX_PROBE_PAIRS
from plaudit import Plaudit

commands = typer.Typer(help="List, follow and cancel evaluations.", no_args_is_help=True)

EvaluationId = Annotated[
    str,
    typer.Argument(
        metavar="EVALUATION_ID", help="Id (eval_…) of an evaluation, or its first digits."
    ),
]
AdapterIds = Annotated[
    list[str],
    typer.Argument(
        help="Ids (ad_…) of adapters of one base model; base:untrained is always evaluated too."
    ),
]


def evaluate(
    adapter_ids: AdapterIds,
    dataset: Annotated[
        str, typer.Option(help="Id (ds_…) of the rows to score, or the sha256 of these rows.")
    ],
    suite: Annotated[
        str | None, typer.Option(help="The benchmark that the rows are from: reward-bench-2@1 …")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", help="Report this slice; default: the 32 largest. Repeatable."),
    ] = None,
    probes: Annotated[
        list[str] | None,
        typer.Option(
            "--probe", help="Run this probe for reward hacking; default: all. Repeatable."
        ),
    ] = None,
    probe_pairs: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_PROBE_PAIRS, help="Rows for the probes; default: 100."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Seed of all that is drawn; default: 0."),
    ] = None,
    overlong: Annotated[
        Overlong | None,
        typer.Option(help="What happens to rows that are too long; default: as_trained."),
    ] = None,
    are_probes_left_out: Annotated[
        bool, typer.Option("--no-probes", help="Do not probe for reward hacking.")
    ] = False,
    are_texts_cut: Annotated[
        bool, typer.Option("--truncate", help="Short for --overlong truncate.")
    ] = False,
    is_not_awaited: Annotated[
        bool, typer.Option("--no-wait", help="Print the id and do not wait for the result.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate adapters on a dataset: accuracy, calibration, length, probes, benchmarks."""
    # Long because each field of the spec has an option.
    if are_probes_left_out and (probes or probe_pairs is not None):
        raise CommandError("--no-probes excludes --probe and --probe-pairs.", ExitCode.USAGE)
    if are_texts_cut and overlong not in (None, "truncate"):
        raise CommandError("--truncate excludes another --overlong.", ExitCode.USAGE)
    given = {
        "suite": suite,
        "name": name,
        "slices": slices or None,
        "probes": [] if are_probes_left_out else probes or None,
        "probe_pairs": probe_pairs,
        "overlong": "truncate" if are_texts_cut else overlong,
        "seed": seed,
    }
    with connect() as client:
        spec: dict[str, Any] = {
            "adapters": [model_name(client, each) for each in adapter_ids],
            "dataset": _dataset(client, dataset),
            **{field: value for field, value in given.items() if value is not None},
        }
        found = client.evaluations.create(**spec)
        notes.print(plain(f"{found.id} is queued.", "dim"))
        if not is_not_awaited:
            _follow(client, found.id, as_json=as_json)
    if as_json:
        show_evaluation(found, as_json=True)
    else:
        typer.echo(found.id)


@commands.command("list")
def list_evaluations(
    limit: LimitOption = 20, after: AfterOption = None, as_json: JsonOption = False
) -> None:
    """List evaluations, newest first."""
    with connect() as client:
        page = client.evaluations.list(page_size=limit, after=after).page()
    print_page(
        page,
        ("id", "name", "status", "progress", "adapters", "suite", "queued"),
        lambda found: (
            found.id,
            found.name,
            found.status,
            scored(found),
            len(found.adapters),
            found.suite,
            moment(found.queued_at),
        ),
        as_json=as_json,
    )


@commands.command()
def get(evaluation_id: EvaluationId, as_json: JsonOption = False) -> None:
    """Show an evaluation: its result, or its state."""
    with connect() as client:
        found = client.evaluations.get(full_id(client, "eval", evaluation_id))
    show_evaluation(found, as_json=as_json)


@commands.command()
def watch(evaluation_id: EvaluationId, as_json: JsonOption = False) -> None:
    """Follow an evaluation until it ends. The exit code reports how it ended."""
    with connect() as client:
        _follow(client, full_id(client, "eval", evaluation_id), as_json=as_json)


@commands.command()
def cancel(evaluation_id: EvaluationId, as_json: JsonOption = False) -> None:
    """Cancel an evaluation. It cannot be resumed."""
    with connect() as client:
        found = client.evaluations.cancel(full_id(client, "eval", evaluation_id))
    show_evaluation(found, as_json=as_json)


@commands.command()
def delete(evaluation_id: EvaluationId) -> None:
    """Delete a finished evaluation with its scores."""
    with connect() as client:
        found = full_id(client, "eval", evaluation_id)
        client.evaluations.delete(found)
    notes.print(plain(f"{found} is deleted."))


def _follow(client: Plaudit, evaluation_id: str, *, as_json: bool) -> None:
    """Watch the evaluation, show it when it has ended, and exit with the code for its status."""
    try:
        found, exit_code = watch_evaluation(client, evaluation_id)
    except KeyboardInterrupt:
        command = f"plaudit evaluations watch {evaluation_id}"
        notes.print(plain(f"The evaluation continues. Follow it with: {command}"))
        raise
    show_evaluation(found, as_json=as_json)
    raise typer.Exit(exit_code)


def _dataset(client: Plaudit, text: str) -> Any:
    """Return a dataset as a spec names it: by its id, or by the digest of its rows."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return {"sha256": text}
    return full_id(client, "ds", text)


def model_name(client: Plaudit, text: str) -> str:
    """Return the name of a model of an evaluation: the id of an adapter, or ``base:untrained``."""
    return text if text == UNTRAINED else full_id(client, "ad", text)
