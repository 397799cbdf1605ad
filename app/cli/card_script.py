"""Runs the program in an adapter's model card with another base model, prompt and replies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from app.cli.exit_codes import CommandError, ExitCode

_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Environment variables that the program inherits; those of the service and the hub are withheld.
_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "HOME")


def card_script(card: str, base: Path, prompt: list[dict[str, str]], replies: list[str]) -> str:
    """Return the card's program with this base model, prompt and replies.

    Raises:
        CommandError: the card contains no program, or one that does not set these variables once.
    """
    found = _PROGRAM.search(card)
    if found is None:
        raise CommandError("The adapter's model card contains no program.", ExitCode.FAILED)
    script = found[1]
    for name, value in (("base", str(base)), ("prompt", prompt), ("replies", replies)):
        line = f"{name} = {value!r}"
        script, count = re.subn(
            rf"^{name} = .*$", lambda _, line=line: line, script, flags=re.MULTILINE
        )  # fmt: skip
        if count != 1:
            raise CommandError(
                f"The program in the model card must set {name} exactly once.", ExitCode.FAILED
            )
    return script


def run_script(script: Path, directory: Path) -> list[float]:
    """Run the program in a new process without Plaudit's settings; return the scores it prints.

    Raises:
        CommandError: the program failed.
    """
    done = subprocess.run(
        [sys.executable, "-I", str(script.resolve())],
        cwd=directory,
        env={name: os.environ[name] for name in _INHERITED if name in os.environ}
        | {"HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandError(
            f"{script} failed with status {done.returncode}:\n{done.stderr.strip()[-2000:]}",
            ExitCode.FAILED,
        )
    scores: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return scores
