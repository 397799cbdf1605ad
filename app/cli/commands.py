"""All commands of ``plaudit``."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from app.cli import (
    adapters,
    datasets,
    demo,
    doctor,
    evaluations,
    jobs,
    keys,
    overview,
    report_pages,
    scoring,
    serve,
    spec_commands,
    verification,
)
from app.cli.environment import report_ignored
from app.cli.exit_codes import EPILOG, Commands

app = typer.Typer(
    cls=Commands,
    help="Train reward models as a service. The client commands (jobs, datasets, adapters, queue, "
    "base-models and others) connect to PLAUDIT_URL with PLAUDIT_API_KEY; the default is the "
    "embedded service of the current directory.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(serve.worker)
app.command()(serve.scorer)
app.command("migrate")(serve.run_migrations)
app.command()(demo.demo)
app.command()(verification.verify)
app.command()(evaluations.evaluate)
app.command()(report_pages.compare)
app.command()(report_pages.report)
app.command()(doctor.doctor)
app.command()(spec_commands.estimate)
app.command()(scoring.score)
app.command()(overview.queue)
app.command()(overview.workers)
app.command()(overview.usage)
app.command("base-models")(overview.base_models)
app.add_typer(keys.commands, name="keys")
app.add_typer(jobs.commands, name="jobs")
app.add_typer(datasets.commands, name="datasets")
app.add_typer(adapters.commands, name="adapters")
app.add_typer(evaluations.commands, name="evaluations")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"plaudit {version('plaudit')}")
        raise typer.Exit


@app.callback()
def _options(
    _is_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    report_ignored(os.environ)
