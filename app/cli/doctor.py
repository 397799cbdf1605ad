"""``plaudit doctor``: checks whether this machine can train."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated

import typer

from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import JsonOption, print_json, print_table

PROGRAM = ("-m", "worker.doctor")


def doctor(
    is_quick: Annotated[
        bool, typer.Option("--quick", help="Run only the checks that take seconds.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine: GPU, kernels, memory, a short job, and speed against stock TRL.

    Requires the worker's libraries. On a machine without a GPU, it lists the checks that it
    skipped. The exit code is 1 if a check failed.
    """
    command = [sys.executable, "-P", *PROGRAM, *(["--quick"] if is_quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise CommandError(
            f"The checks ended with status {done.returncode} and without a result.",
            ExitCode.FAILED,
            "Install the worker's libraries: pip install 'plaudit[worker]'.",
        )
    report = json.loads(done.stdout)
    if as_json:
        print_json(report)
    else:
        print_table(
            ("check", "result", "found"),
            (
                (result["check"], result["status"].replace("_", " "), result["detail"])
                for result in report["checks"]
            ),
        )
    raise typer.Exit(ExitCode.SUCCEEDED if report["is_fit"] else ExitCode.FAILED)
