"""``plaudit doctor`` on this machine, and how results become an exit status."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.model_factories import ROOT
from worker.doctor.report import Check, CheckFailedError, LeftOutError, require, run_checks


def test_quick_checks_pass_here_and_name_what_they_leave_out() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.doctor", "--quick"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["is_fit"] is True
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert results["forked trainers"] == "passed"
    assert results["locks of killed trainers"] == "passed"
    assert results["several GPUs in one job"] == "left out"
    assert all(check["detail"] for check in report["checks"])


def _raise(error: Exception) -> str:
    raise error


@pytest.mark.parametrize(
    ("check", "result", "detail"),
    [
        (Check("c", lambda _device: require(1 < 2, "1 of 2")), "passed", "1 of 2"),
        (Check("c", lambda _device: require(3 < 2, "3 of 2")), "failed", "3 of 2"),
        (Check("c", lambda _device: _raise(CheckFailedError("slow"))), "failed", "slow"),
        (Check("c", lambda _device: _raise(RuntimeError("lost"))), "failed", "RuntimeError: lost"),
        (Check("c", lambda _device: _raise(LeftOutError("none"))), "left out", "none"),
    ],
)
def test_result_of_a_check(check: Check, result: str, detail: str) -> None:
    (found,) = run_checks([check])
    assert (found.result, found.detail) == (result, detail)
