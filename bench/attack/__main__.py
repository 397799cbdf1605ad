"""Attack the service and check that it holds: ``python -m bench.attack --seconds 170``.

Each attack runs in a separate process, next to a monitor of /healthz. The run fails if a response
has an unannounced status of 500 or above, /healthz stalls for over a second, its 99th percentile is
over 100 ms and over twice that next to a program that only uses the CPU, memory, descriptors or
threads are not released afterwards, or the data of an idle tenant change. The exit status is 0 if
all attacks pass. With ``--untimed``, for machines that run other programs as well, latencies are
shown but not judged.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path

from bench.attack.attacks import warm_up
from bench.attack.catalogue import ATTACKS, NEEDS_REDIS
from bench.attack.monitor import STALL_SECONDS, Monitor, Usage
from bench.attack.processes import burn, strike
from bench.attack.target import Target, serving
from bench.attack.witness import Witness

MIB = 1 << 20
P99_SECONDS = 0.1
GROWTH_BYTES = 64 * MIB
SETTLE_SECONDS = 20.0
#: Connections and threads that the service may open and keep for later: its two pools of eight
#: connections, each with as many more for short periods, and its threads.
POOLED = 40
#: Duration of the control run as a share of the time of an attack.
CONTROL_PART = 0.5


def main() -> int:
    """Run every attack on the selected databases."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all attacks of a database")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--only", choices=sorted(ATTACKS), action="append", help="one attack")
    parser.add_argument("--untimed", action="store_true", help="do not judge latencies")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops the services that it started
    print(f"seed {options.seed}")
    kinds = ["sqlite", "postgresql"] if options.database == "both" else [options.database]
    problems = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="plaudit-attack-") as directory:
            is_postgres = kind == "postgresql"
            with serving(Path(directory), is_postgres=is_postgres) as target:
                print(f"\n{kind}")
                names = options.only or list(ATTACKS)
                if target.redis_pid is None:
                    names = [name for name in names if name not in NEEDS_REDIS]
                witness = Witness(target)
                found = _attack_all(target, names, options)
                problems += [f"{kind}: {problem}" for problem in found + witness.changes()]
    for problem in problems:
        print(f"FAILED  {problem}")
    print("held" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


def _attack_all(target: Target, names: list[str], options: argparse.Namespace) -> list[str]:
    each, seed = options.seconds / len(names) / (1 + CONTROL_PART), options.seed
    warm_up(target)
    start = Usage.of(target.pid)
    problems = []
    for name in names:
        # Just before each attack: other programs may run on the machine.
        control = _beside(target, burn, ("", CONTROL_PART * each, seed))[0]
        before = Usage.of(target.pid)
        monitor, found = _beside(target, strike, (name, each, seed, target))
        found += sorted(set(monitor.failures))[:3]
        if not options.untimed:
            found += _slowness(monitor, control)
        usage = _settled(target, before)
        growth = usage.rss_bytes - before.rss_bytes
        if growth > GROWTH_BYTES:
            found.append(f"{growth / MIB:.0f} MiB of memory were not released")
        if usage.descriptors > before.descriptors + POOLED or (
            usage.threads > before.threads + POOLED
        ):
            grown = usage.descriptors - before.descriptors, usage.threads - before.threads
            found.append(f"{grown[0]} descriptors and {grown[1]} threads were not released")
        print(
            f"{name:20} p99 {monitor.p99 * 1000:6.1f} ms, control {control.p99 * 1000:6.1f} ms  "
            f"worst {monitor.worst * 1000:7.1f} ms  "
            f"peak {monitor.peak.rss_bytes / MIB:5.0f} MiB  growth {growth / MIB:+5.0f} MiB  "
            f"{'held' if not found else '; '.join(found)}",
            flush=True,
        )
        problems += [f"{name}: {problem}" for problem in found]
    end = Usage.of(target.pid)
    growth = end.rss_bytes - start.rss_bytes
    if growth > GROWTH_BYTES:
        problems.append(f"{growth / MIB:.0f} MiB of memory were not released after all attacks")
    if max(end.descriptors - start.descriptors, end.threads - start.threads) > POOLED:
        problems.append("descriptors or threads were not released after all attacks")
    return problems


def _slowness(monitor: Monitor, control: Monitor) -> list[str]:
    found = []
    if monitor.worst > max(STALL_SECONDS, 2 * control.worst):
        found.append(f"/healthz stalled for {monitor.worst:.1f} s")
    if monitor.p99 > max(P99_SECONDS, 2 * control.p99):
        found.append(f"/healthz p99 {monitor.p99 * 1000:.0f} ms")
    return found


def _beside(
    target: Target, work: object, arguments: tuple[object, ...]
) -> tuple[Monitor, list[str]]:
    """Run ``work`` in another process next to a monitor, and return its result."""
    # Fork a server that has imported the attacks: in a new process the import takes seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.attack.processes"])
    results: Queue[list[str]] = context.Queue()
    process = context.Process(target=work, args=(results, *arguments))  # type: ignore[arg-type]
    with Monitor(target.port, target.pid) as monitor:
        process.start()
        process.join()
    return monitor, results.get() if process.exitcode == 0 else ["the attack itself failed"]


def _settled(target: Target, before: Usage) -> Usage:
    """Return the usage when it has returned to normal, or after ``SETTLE_SECONDS``."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        usage = Usage.of(target.pid)
        is_back = (
            usage.descriptors <= before.descriptors + POOLED
            and usage.threads <= before.threads + POOLED
            and usage.rss_bytes - before.rss_bytes <= GROWTH_BYTES
        )
        if is_back or time.monotonic() > deadline:
            return usage
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
