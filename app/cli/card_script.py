"""Run the program in an adapter's model card with three of its values replaced."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from app.cli.exit_codes import CommandError, ExitCode

_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Environment variables that the program gets: none of the service, the hub or a cache.
_INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "HOME")


def card_script(card: str, base: Path, prompt: list[dict[str, str]], replies: list[str]) -> str:
    """The card's program for this base model, prompt and replies.

    Raises:
        CommandError: the card shows none, or one that does not name them.
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
            raise CommandError(f"The card's program does not set {name} once.", ExitCode.FAILED)
    return script


def run_script(script: Path, directory: Path) -> list[float]:
    """The scores it prints, in a fresh process that sees nothing of Plaudit's settings."""
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
            f"{script} ended with status {done.returncode}:\n{done.stderr.strip()[-2000:]}",
            ExitCode.FAILED,
        )
    scores: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return scores
