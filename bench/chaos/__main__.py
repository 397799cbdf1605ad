"""Inject faults into the whole service while it trains, and check the result.

    make chaos FAULTS=300                      PostgreSQL and Redis, then SQLite
    python -m bench.chaos --faults 60 --seed 7 --database sqlite
    python -m bench.chaos --faults 60 --sabotage      must find overlaps and exit with 1

API, workers, databases and brokers are real processes on this machine. Most trainers are fakes
that compute a chain of hashes (tests/supervisor/fake_trainer.py), so that a few minutes contain
many attempts. Jobs of ``--real`` train a tiny decoder with torch. Every fault is drawn from the
seed. A fault is a hit if its target was running a job.

The checker verifies that

- every job ended, in a status that is allowed for it
- every adapter has the bytes of an undisturbed run
- the events of a job have no gaps and end once
- the metrics are those of an undisturbed run
- no attempt takes a step and no trainer is alive after the next attempt began
- no process is left

A quarter of the jobs takes so long that an orphaned trainer would be detected; the report gives the
number of such takeovers. ``--sabotage`` disables the code that ends a fake trainer whose worker is
gone.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from bench.chaos.run import Chaos


def main() -> int:
    """Run, print the figures, and return 1 if there are violations."""
    options = parse_options()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(
        directory,
        is_postgres=options.database == "postgresql",
        seed=options.seed,
        sabotage=options.sabotage,
    )
    print(f"seed {options.seed}, {options.database}, {directory}", flush=True)
    try:
        chaos.start(options.workers, with_real=options.real > 0)
        violations = chaos.run(options.faults, options.every, options.real)
    finally:
        chaos.stack.close()
    report(chaos, violations)
    if not violations:
        shutil.rmtree(directory)
    return 1 if violations else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--real", type=int, default=0, help="Number of jobs of the real trainer.")
    parser.add_argument("--every", type=float, default=1.5, help="Mean seconds between two faults.")
    parser.add_argument(
        "--sabotage", action="store_true", help="Break the trainers; the checker must detect it."
    )
    return parser.parse_args()


def report(chaos: Chaos, violations: list[str]) -> None:
    """Print the figures of a run."""
    count, hits, checker = chaos.faults.count, chaos.faults.hits, chaos.checker
    print(
        f"{count.total()} faults in {chaos.seconds:.0f} s, {hits.total()} of them while a job ran"
    )
    for name in sorted(count):
        print(f"  {name:18}{count[name]:5} {hits[name]:5}")
    jobs = chaos.load.jobs
    real = sum(job.is_real for job in jobs.values())
    print(f"{len(jobs)} jobs ({real} real), {checker.attempts} attempts, {checker.steps} steps")
    print(f"{checker.exposed_takeovers} takeovers at which an orphan would still have run")
    if not violations:
        print(
            "no violations: 0 lost, 0 finished twice, 0 overlaps, 0 stale writes, 0 orphans, "
            "every adapter equals that of an undisturbed run"
        )
        return
    print("VIOLATIONS:")
    for line in violations:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
