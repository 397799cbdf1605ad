"""``plaudit compare`` and ``report``: compare two models, and write report pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.evaluation_display import print_comparison
from app.cli.evaluations import EvaluationId, model_name
from app.cli.output import JsonOption, notes, plain, print_json, write_file
from app.cli.short_ids import full_id
from plaudit import Plaudit


def compare(
    a: EvaluationId,
    b: EvaluationId,
    a_adapter: Annotated[str | None, typer.Option(help="Default: the first adapter of A.")] = None,
    b_adapter: Annotated[str | None, typer.Option(help="Default: the first adapter of B.")] = None,
    page: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="Also write an HTML page.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the rows that both evaluations scored."""
    with connect() as client:
        a, b = (full_id(client, "eval", each) for each in (a, b))
        a_adapter, b_adapter = (
            each and model_name(client, each) for each in (a_adapter, b_adapter)
        )
        found = client.comparisons.get(a, b, a_adapter=a_adapter, b_adapter=b_adapter)
        if page is not None:
            html = client.comparisons.report_page(a, b, a_adapter=a_adapter, b_adapter=b_adapter)
            write_file(page, html)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_comparison(found)


def report(
    name: Annotated[str, typer.Argument(help="Id of a job (job_…) or an evaluation (eval_…).")],
    page: Annotated[Path | None, typer.Argument(dir_okay=False, help="The file to write.")] = None,
    hub: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="A model repository: also write the results to its .eval_results, and to the "
            "model-index of its README.md.",
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="With --hub: the adapter of the repository, if several were judged."),
    ] = None,
) -> None:
    """Write the report of a job or an evaluation as one self-contained HTML page."""
    with connect() as client:
        if name.startswith("eval_"):
            found = full_id(client, "eval", name)
            html = client.evaluations.report_page(found)
        else:
            found = full_id(client, "job", name)
            html = client.jobs.report_page(found)
        if hub is not None:
            _write_results(client, found, hub, adapter)
    target = page or Path(f"{found}.html")
    write_file(target, html)
    typer.echo(target)


def _write_results(client: Plaudit, name: str, repository: Path, adapter: str | None) -> None:
    # The library of the hub takes as long to import as all the rest of a client command.
    from app.cli import hub_results

    if name.startswith("eval_"):
        evaluation = client.evaluations.get(name).model_dump(mode="json")
        wanted = adapter and full_id(client, "ad", adapter)
        results = hub_results.of_evaluation(
            evaluation, wanted, list(client.suites.list()), client.url
        )
    else:
        report = client.jobs.full_report(name).model_dump(mode="json")
        results = hub_results.of_job(report, client.url)
    for path in results.write(repository):
        notes.print(plain(str(path), "dim"))
