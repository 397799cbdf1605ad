"""Faults at the whole service while it trains, and a checker that decides.

    make chaos FAULTS=300                      PostgreSQL and Redis, then SQLite
    python -m bench.chaos --faults 60 --seed 7 --database sqlite
    python -m bench.chaos --faults 60 --sabotage      must find overlaps, and exit 1

API, workers, databases and brokers are real processes of this machine. Most trainers are fakes
whose training is a chain of hashes (tests/worker/fake_trainer.py), so that many attempts fit into
minutes; ``--real`` jobs train a tiny decoder with torch. Every fault is drawn from the seed. It
counts as a hit when what it struck was running a job then.

The checker: every job ended, in a state that it may end in; every adapter has the bytes of its
undisturbed twin; events are numbered without a gap and end once; metrics are those of an
undisturbed run; no attempt takes a step, and no trainer lives, after the next one began; no
process is left.

A quarter of the jobs last so long that an orphan would be seen; the report says at how many
takeovers. ``--sabotage`` takes away what ends a fake trainer whose worker is gone.
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
    """Run, print the figures, exit 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=int, default=40)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--real", type=int, default=0, help="Jobs of the real trainer.")
    parser.add_argument("--every", type=float, default=1.5, help="Seconds between two faults.")
    parser.add_argument(
        "--sabotage", action="store_true", help="Break the trainers: the checker must see it."
    )
    options = parser.parse_args()
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
        chaos.open(options.workers, with_real=options.real > 0)
        wrong = chaos.run(options.faults, options.every, options.real)
    finally:
        chaos.stack.close()
    report(chaos, wrong)
    if not wrong:
        shutil.rmtree(directory)
    return 1 if wrong else 0


def report(chaos: Chaos, wrong: list[str]) -> None:
    """The figures."""
    count, hits, checker = chaos.faults.count, chaos.faults.hits, chaos.checker
    print(
        f"{count.total()} faults in {chaos.seconds:.0f} s, {hits.total()} of them while a job ran"
    )
    for name in sorted(count):
        print(f"  {name:18}{count[name]:5} {hits[name]:5}")
    jobs = chaos.load.jobs
    real = sum(wanted.is_real for wanted in jobs.values())
    print(f"{len(jobs)} jobs ({real} real), {checker.attempts} attempts, {checker.steps} steps")
    print(f"{checker.exposed} takeovers at which an orphan would still have run")
    print("WRONG:" if wrong else "nothing wrong: 0 lost, 0 finished twice, 0 overlaps, "
          "0 stale writes, 0 orphans, every adapter equal to its twin's")  # fmt: skip
    for line in wrong:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
