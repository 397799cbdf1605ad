"""``python -m worker.doctor``: check this machine and print the results as JSON.

Exit status 1 if a check failed. With ``--quick`` only the checks that take seconds run.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

from worker.trainer.environment import prepare_environment


def main(argv: list[str]) -> int:
    """Run the checks; the results are the only output on stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the libraries goes to stderr
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    prepare_environment(max(1, len(os.sched_getaffinity(0))))
    # A trainer sees one GPU; the checks are of all that a worker would use.
    os.environ.pop("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    warnings.simplefilter("ignore")
    from worker.doctor.checks import CHECKS, LEFT_OUT
    from worker.doctor.report import run_checks

    checks = [check for check in CHECKS if check.is_quick or "--quick" not in argv]
    results = [result.as_json() for result in run_checks(checks)]
    is_fit = all(result["result"] != "failed" for result in results)
    results += [{"name": n, "result": "left out", "detail": d, "seconds": 0} for n, d in LEFT_OUT]
    json.dump({"is_fit": is_fit, "checks": results}, out)
    out.close()
    return 0 if is_fit else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
