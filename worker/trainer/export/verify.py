"""Print the certificate of an adapter.

Usage: ``python -m worker.trainer.export.verify <adapter> --base <model>``.

Exit status 0: every probe has the score of the training. 1: a probe has another score. 2: the
adapter could not be scored; the JSON is then ``{"failure": {"code", "detail"}}``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from worker.ipc.parent_death import die_with_parent
from worker.trainer.environment import prepare_environment


def main(argv: list[str] | None = None) -> int:
    """Certify; the certificate, or the failure, is the only output on stdout."""
    die_with_parent()
    parser = argparse.ArgumentParser(
        prog="python -m worker.trainer.export.verify", description=__doc__
    )
    parser.add_argument("directory", type=Path, help="the adapter, or a merged model")
    parser.add_argument(
        "--base", type=Path, help="directory of the base model; omit it for a merged model"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the libraries goes to stderr
    prepare_environment(arguments.threads)
    from worker.reward_model.errors import TrainerError
    from worker.trainer.diagnosis import diagnose
    from worker.trainer.export.certificate import certify

    answer: dict[str, Any]
    try:
        answer = certify(arguments.directory, arguments.base, arguments.device)
        status = 0 if answer["is_verified"] else 1
    except Exception as error:  # noqa: BLE001 - the answer has the failure, the log the traceback
        if not isinstance(error, TrainerError):  # its detail is complete
            traceback.print_exc()
        failure = diagnose(error)
        answer = {"failure": {"code": failure.code, "detail": failure.detail}}
        status = 2
    json.dump(answer, out, indent=1)
    out.write("\n")
    out.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
