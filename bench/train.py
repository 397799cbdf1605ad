"""Compare the training backends stock and shared_prefix on the same data, model and seed.

    make bench-train                                 # both kinds of data, three rounds
    python -m bench.train --data pairs.jsonl         # your own text pairs
    python -m bench.train --fallback --steps 2       # also measure groups of similar length
    python -m bench.train --family bert              # an encoder: groups of similar length only
    python -m bench.train --family qwen3-0.6b --bf16 # for a GPU, which is used if there is one

Every run is a process of its own with its own peak memory. The stock arm is RewardTrainer as
`trl reward --use_peft --lora_task_type SEQ_CLS` builds it, with activation checkpointing. Both arms
run in turns, and ratios are computed within a round, so that both have met the same machine.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.pairs import USED_IDS, describe, draw_pairs, read_pairs

ARMS = ("stock", "shared_prefix")
#: The shared-prefix trainer in padded groups of similar length, to which it falls back.
FALLBACK = "length_groups"
# 38 M parameters, 22 M of them in the layers: a laptop trains them in minutes.
SHAPES: dict[str, dict[str, Any]] = {
    family: {
        "model_type": family,
        "vocab_size": USED_IDS,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
    }
    for family in ("qwen2", "llama")
}
# The shape of all-MiniLM-L6-v2, which `make demo` trains.
SHAPES["bert"] = {
    "model_type": "bert",
    "vocab_size": USED_IDS,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
}
# The shape of Qwen3-0.6B, for a machine with a GPU. Its weights are random as well.
SHAPES["qwen3-0.6b"] = {
    "model_type": "qwen3",
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
}


@dataclass
class Run:
    """One arm's run over the data. ``seconds`` measures ``train``; the checks are separate."""

    check_cpu_seconds: float
    seconds: float
    cpu_seconds: float
    pairs: int
    tokens: int
    peak_mib: float
    start_mib: float
    losses: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    if options.arm:
        run = _train(options.arm, Path(options.folder), options)
        Path(options.folder, f"{options.arm}.json").write_text(json.dumps(asdict(run)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = _save_model(folder / "model", options.family)
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
    parser.add_argument("--max-length", type=int, default=1024, help="most tokens of a sequence")
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
    if FALLBACK in rounds[0] and arm != FALLBACK:
        ratios[FALLBACK] = [r["stock"].cpu_seconds / r[FALLBACK].cpu_seconds for r in rounds]
    for name, values in ratios.items():
        print(
            f"  ratio {name:12} {statistics.median(values):.2f} "
            f"(from {min(values):.2f} to {max(values):.2f} in {len(values)} rounds)"
        )


def _adapter_difference(folder: Path, arm: str) -> float:
    """Return the norm of the difference of both final adapters, relative to the stock one's."""
    from safetensors.torch import load_file

    a, b = (load_file(folder / a / "adapter_model.safetensors") for a in (ARMS[0], arm))
    difference = math.sqrt(sum(float((a[k] - b[k]).norm()) ** 2 for k in a))
    return difference / math.sqrt(sum(float(t.norm()) ** 2 for t in a.values()))


def _save_model(folder: Path, family: str) -> int:
    """Save a causal model with random weights; return the number of its decoder's parameters."""
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        PreTrainedTokenizerFast,
    )

    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    auto_class = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    model = auto_class.from_config(AutoConfig.for_model(**SHAPES[family]))
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<eos>",
    ).save_pretrained(folder)
    return int(model.base_model.num_parameters())


def _train(arm: str, folder: Path, options: argparse.Namespace) -> Run:
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    trainer = _make_trainer(arm, folder, options)
    start_mib = _peak_mib()
    cpu_began = time.process_time()
    _choose_backend(trainer, arm)
    check_cpu_seconds = time.process_time() - cpu_began
    began, cpu_began = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    trainer.save_model(str(folder / arm))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Run(
        check_cpu_seconds=check_cpu_seconds,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        pairs=options.steps * options.batch,
        tokens=int(history[-1]["num_tokens"]),
        peak_mib=_peak_mib(),
        start_mib=start_mib,
        losses=[entry["loss"] for entry in history],
    )


def _make_trainer(arm: str, folder: Path, options: argparse.Namespace) -> Any:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    from worker.trainer.shared_prefix import SharedPrefixRewardTrainer

    trainer_class = RewardTrainer if arm == "stock" else SharedPrefixRewardTrainer
    trainer: Any = trainer_class(
        model=str(folder / "model"),
        args=RewardConfig(
            output_dir=str(folder / arm),
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            logging_steps=1,
            use_cpu=not torch.cuda.is_available(),
            bf16=options.bf16,
            seed=options.seed,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(json.loads((folder / "rows.json").read_text())),
        peft_config=LoraConfig(task_type="SEQ_CLS"),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _choose_backend(trainer: Any, arm: str) -> None:
    from worker.trainer.shared_prefix import check_parity, unsupported_reason

    if arm == "shared_prefix":
        reason = unsupported_reason(trainer.model, trainer.args) or check_parity(trainer).reason
        if reason:
            sys.exit(f"the backend shared_prefix would fall back to stock: {reason}")
    elif arm == FALLBACK:
        trainer.use_length_groups()


def _peak_mib() -> float:
    """Return the peak memory of the process, or of its GPU if it has one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
