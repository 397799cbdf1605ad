"""Score with an adapter in a directory, without a service.

Usage: ``python -m worker.scorer.local <adapter> --base <model>``. Each line of stdin is a JSON list
of ``{"prompt", "responses"}``; each line of stdout is ``{"scores", "score_spec"}``, or
``{"error"}``, after which the process ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from worker.scorer.environment import prepare_libraries


def main() -> int:
    """Answer lines until the end of the input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the libraries goes to stderr
    prepare_libraries(arguments.threads)
    from worker.reward_model.probe_check import ScoresDifferError
    from worker.reward_model.reply_tokenizer import ItemInvalidError
    from worker.scorer.local_scorer import LocalScorer, TooLongError

    try:
        scorer = LocalScorer(arguments.directory, arguments.base, arguments.threads)
        for line in sys.stdin:
            _say(out, {"scores": scorer.score(json.loads(line)), "score_spec": scorer.spec})
    except (ItemInvalidError, ScoresDifferError, TooLongError, OSError, ValueError) as error:
        _say(out, {"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _say(out: Any, document: dict[str, Any]) -> None:
    out.write(json.dumps(document) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
