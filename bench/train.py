"""Compare the training backends stock and shared_prefix on the same data, model and seed.

    make bench-train                                 # both kinds of data, three rounds
    python -m bench.train --data pairs.jsonl         # your own text pairs
    python -m bench.train --fallback --steps 2       # also measure groups of similar length
    python -m bench.train --family bert              # an encoder: groups of similar length only
    python -m bench.train --family qwen3-0.6b --bf16 # for a GPU, which is used if there is one

Every run is a process of its own with its own peak memory. The stock arm is RewardTrainer as `trl
reward --use_peft --lora_task_type SEQ_CLS` builds it, with activation checkpointing. Both arms run
in turns, and ratios are computed within a round, so that both run under the same load. With --bf16
both arms train as the service does on a GPU: frozen weights in bfloat16, the head in float32, and
the LoRA adapter of a spec's defaults. The ratio "FLOPs" is explained in bench/utilisation.py.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.pairs import describe, draw_pairs, read_pairs
from bench.train_arm import ARMS, FALLBACK, SHAPES, Run, save_model, train_arm


def main() -> None:
    options = _options()
    if options.arm:
        run = train_arm(options.arm, Path(options.folder), options)
        Path(options.folder, f"{options.arm}.json").write_text(json.dumps(asdict(run)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = save_model(folder / "model", options.family)
        kinds = ["file"] if options.data else options.kinds
        for kind in kinds:
            count = options.steps * options.batch
            rows = (
                read_pairs(Path(options.data), count, options.max_length)
                if options.data
                else draw_pairs(kind, count, options.max_length, options.seed)
            )
            (folder / "rows.json").write_text(json.dumps(rows))
            print(
                f"\n{kind}: {describe(rows)}; {options.family} of {parameters / 1e6:.0f} M "
                f"parameters, LoRA r 8, batch {options.batch}, "
                f"{'bf16' if options.bf16 else 'fp32'}, {options.threads} thread(s), "
                f"{options.steps} steps"
            )
            rounds = [_round(folder, number, options) for number in range(options.rounds)]
            _report(rounds, _adapter_difference(folder, _arms(options)[1]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=["multi_turn", "single_turn"])
    parser.add_argument("--data", help="JSONL file with chosen and rejected texts")
    parser.add_argument("--family", choices=SHAPES, default="qwen2")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8, help="pairs per step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=1024, help="maximum tokens of a sequence")
    parser.add_argument("--bf16", action="store_true", help="use bfloat16 autocast in both arms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fallback", action="store_true", help="also measure a run that falls back to stock"
    )
    parser.add_argument("--arm", choices=(*ARMS, FALLBACK), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def _round(folder: Path, number: int, options: argparse.Namespace) -> dict[str, Run]:
    """Run each arm once; odd rounds reverse the order."""
    runs: dict[str, Run] = {}
    arms = _arms(options)
    for arm in arms if number % 2 == 0 else arms[::-1]:
        command = [sys.executable, "-m", "bench.train", "--arm", arm, "--folder", str(folder)]
        for name in ("family", "steps", "batch", "threads", "seed"):
            command += [f"--{name}", str(getattr(options, name))]
        command += ["--bf16"] if options.bf16 else []
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1], env=_quiet())
        runs[arm] = run = Run(**json.loads((folder / f"{arm}.json").read_text()))
        print(
            f"  round {number + 1} {arm:14} {run.pairs / run.seconds:7.2f} pairs/s "
            f"{run.tokens / run.seconds:8.0f} tokens/s {run.seconds:7.1f} s "
            f"(CPU {run.cpu_seconds:.1f} s, checks {run.check_cpu_seconds:.1f} s) "
            f"peak {run.peak_mib:6.0f} MiB ({run.start_mib:.0f} MiB before the first step)",
            flush=True,
        )
    return runs


def _arms(options: argparse.Namespace) -> tuple[str, ...]:
    if options.family == "bert":
        return (ARMS[0], FALLBACK)
    return (*ARMS, FALLBACK) if options.fallback else ARMS


def _quiet() -> dict[str, str]:
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }


def _report(rounds: list[dict[str, Run]], adapter_difference: float) -> None:
    arm = ARMS[1] if ARMS[1] in rounds[0] else FALLBACK
    stock, ours = rounds[0]["stock"], rounds[0][arm]
    print(f"  step   stock loss   {arm} loss   difference")
    for step, (a, b) in enumerate(zip(stock.losses, ours.losses, strict=True), start=1):
        print(f"  {step:4}   {a:.8f}   {b:.8f}   {b - a:+.1e}")
    print(f"  relative difference of the final adapters: {adapter_difference:.1e}")
    ratios = {
        "pairs/s": [r["stock"].seconds / r[arm].seconds for r in rounds],
        "cpu time": [r["stock"].cpu_seconds / r[arm].cpu_seconds for r in rounds],
        "peak memory": [r[arm].peak_mib / r["stock"].peak_mib for r in rounds],
    }
    runs = [r[arm] for r in rounds]
    ratios["FLOPs"] = [run.flop_rate / run.product_rate for run in runs]
    if FALLBACK in rounds[0] and arm != FALLBACK:
        ratios[FALLBACK] = [r["stock"].cpu_seconds / r[FALLBACK].cpu_seconds for r in rounds]
    for name, values in ratios.items():
        print(
            f"  ratio {name:12} {statistics.median(values):.2f} "
            f"(from {min(values):.2f} to {max(values):.2f} in {len(values)} rounds)"
        )
    rate, products = (
        statistics.median(getattr(run, name) for run in runs) / 1e9
        for name in ("flop_rate", "product_rate")
    )
    print(
        f"  FLOPs: a step of {arm} reaches {rate:.1f} GFLOP/s, its matrix products alone "
        f"{products:.1f} GFLOP/s"
    )


def _adapter_difference(folder: Path, arm: str) -> float:
    """Return the norm of the difference of both final adapters, relative to the stock one's."""
    from safetensors.torch import load_file

    a, b = (load_file(folder / a / "adapter_model.safetensors") for a in (ARMS[0], arm))
    difference = math.sqrt(sum(float((a[k] - b[k]).norm()) ** 2 for k in a))
    return difference / math.sqrt(sum(float(t.norm()) ** 2 for t in a.values()))


if __name__ == "__main__":
    main()
