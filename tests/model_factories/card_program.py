"""Run the program that an adapter's model card contains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path


def card_scores(adapter: Path, base_dir: str, texts: list[str]) -> list[float]:
    """Score rendered texts in one batch with the program of the adapter's card.

    Raises:
        ValueError: the program does, with its message.
    """
    card = (adapter / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet
    code = snippet.group(1).replace('"/path/to/plaudit/tiny"', repr(base_dir))
    first = "ids" if "\nids = tokenizer(" in code else "batch"
    code = code.replace(f"{first} = tokenizer(", f"texts = {texts!r}\n{first} = tokenizer(")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=adapter, capture_output=True, text=True, check=False
    )
    if "\nValueError: " in done.stderr:
        raise ValueError(done.stderr.strip().rpartition("\nValueError: ")[2])
    assert done.returncode == 0, done.stderr
    assert "newly initialized" not in done.stderr
    scores: list[float] = json.loads(done.stdout)
    return scores
