"""``python -m worker.doctor``: check this machine and print the results as JSON.

Exit status 1 if a check failed. With ``--quick`` only the checks that take seconds run.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from functools import partial

from worker.doctor.forks import fork_server
from worker.supervisor.check_results import Result, run_check
from worker.supervisor.devices import Device, DeviceError, visible_devices
from worker.supervisor.start_checks import start_checks
from worker.trainer.environment import prepare_environment


def main(argv: list[str]) -> int:
    """Run the checks; the results are the only output on stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of the libraries goes to stderr
    try:
        devices: tuple[Device | None, ...] = visible_devices(os.environ) or (None,)
    except DeviceError as error:
        results = [Result("devices", "failed", str(error))]
    else:
        with fork_server(devices) as server:
            results = start_checks(server, devices)
        if "--quick" not in argv:
            results += _thorough_checks()
    is_fit = all(result.status != "failed" for result in results)
    json.dump({"is_fit": is_fit, "checks": [result.as_json() for result in results]}, out)
    out.close()
    return 0 if is_fit else 1


def _thorough_checks() -> Iterator[Result]:
    prepare_environment(max(1, len(os.sched_getaffinity(0))))
    warnings.simplefilter("ignore")
    import torch

    from worker.doctor.checks import CHECKS, LEFT_OUT

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for check in CHECKS:
        if check.needs_gpu and device == "cpu":
            yield Result(check.name, "left_out", "this machine has no usable GPU")
        else:
            yield run_check(check.name, partial(check.run, device))
    yield from (Result(name, "left_out", reason) for name, reason in LEFT_OUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
