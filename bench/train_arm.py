"""One arm of ``bench.train``: build a trainer, train, and measure."""

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.pairs import USED_IDS
from bench.utilisation import measure

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
# A small DeBERTa-v3 and a small ModernBERT, with every third layer global.
SHAPES["deberta-v2"] = {
    **SHAPES["bert"],
    "model_type": "deberta-v2",
    "num_attention_heads": 6,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
SHAPES["modernbert"] = {
    **SHAPES["bert"],
    "model_type": "modernbert",
    "intermediate_size": 576,
    "num_attention_heads": 6,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "sep_token_id": 1,
}
ENCODERS = ("bert", "deberta-v2", "modernbert")
#: Layers with LoRA where PEFT knows none for the architecture.
TARGETS = {"modernbert": ["Wqkv"]}
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
# Few layers of the shapes of Qwen2.5-0.5B and Llama-3.2-1B, which is enough for the utilisation.
SHAPES["qwen2.5-0.5b-short"] = {
    **SHAPES["qwen2"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 6,
    "num_attention_heads": 14,
}
SHAPES["llama-3.2-1b-short"] = {
    **SHAPES["llama"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
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
    flop_rate: float = 0.0  # FLOP/s of a step, and of its matrix products alone
    product_rate: float = 0.0
    losses: list[float] = field(default_factory=list)


def save_model(folder: Path, family: str) -> int:
    """Save a model with random weights; return the number of its body's parameters."""
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
    auto_class = AutoModelForMaskedLM if family in ENCODERS else AutoModelForCausalLM
    model = auto_class.from_config(AutoConfig.for_model(**SHAPES[family]))
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<eos>",
    ).save_pretrained(folder)
    return int(model.base_model.num_parameters())


def train_arm(arm: str, folder: Path, options: argparse.Namespace) -> Run:
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
    peak_mib = _peak_mib()
    trainer.save_model(str(folder / arm))
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Run(
        check_cpu_seconds=check_cpu_seconds,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        pairs=options.steps * options.batch,
        tokens=int(history[-1]["num_tokens"]),
        peak_mib=peak_mib,
        start_mib=start_mib,
        **({} if arm == "stock" else _utilisation(trainer)),
        losses=[entry["loss"] for entry in history],
    )


def _make_trainer(arm: str, folder: Path, options: argparse.Namespace) -> Any:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, PrinterCallback, set_seed
    from trl import RewardConfig, RewardTrainer

    from worker.trainer.shared_prefix import SharedPrefixRewardTrainer

    set_seed(options.seed)
    trainer_class = RewardTrainer if arm == "stock" else SharedPrefixRewardTrainer
    trainer: Any = trainer_class(
        model=service_model(folder / "model") if options.bf16 else str(folder / "model"),
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
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=None
        if options.bf16
        else LoraConfig(task_type="SEQ_CLS", target_modules=TARGETS.get(options.family)),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def service_model(folder: Path) -> Any:
    """Return a base model with the adapter of a spec's defaults, as the service trains it."""
    import torch

    from app.domain.compiler import compile_plan
    from app.domain.job_data import JobData
    from app.domain.plan import DatasetRef
    from app.domain.spec import RewardJobSpec
    from app.domain.text_format import DataForm
    from worker.reward_model.loading import DeviceConfig, load_base
    from worker.trainer.inspection.base_model import inspect_base_model
    from worker.trainer.training.lora import add_lora

    facts = inspect_base_model(folder, revision=None, chat_template=None, digest="0" * 64)
    data = DatasetRef(id="ds_" + "0" * 32, sha256="0" * 64, pair_count=1000)
    spec = RewardJobSpec(base_model="bench", train_dataset=data.id)
    form = DataForm(has_texts=True, texts_have_prompts=False)
    plan = compile_plan(spec, "bench", facts, JobData(data, None, form))
    config = DeviceConfig("cuda" if torch.cuda.is_available() else "cpu", bf16=True)
    return add_lora(load_base(str(folder), config, plan.head_modules), plan)


def _utilisation(trainer: Any) -> dict[str, float]:
    """Measure a forward and backward of one batch."""
    batch = next(iter(trainer.get_train_dataloader()))

    def step() -> None:
        trainer.model.zero_grad()
        trainer.training_step(trainer.model, batch)

    with trainer._mixed_precision():
        found = measure(step, trainer.args.device)
    return {"flop_rate": found.step, "product_rate": found.products}


def _choose_backend(trainer: Any, arm: str) -> None:
    from worker.trainer.shared_prefix import check_disentangled, check_parity, unsupported_reason

    if arm == "shared_prefix":
        reason = unsupported_reason(trainer.model, trainer.args) or check_parity(trainer).reason
        if reason:
            sys.exit(f"the backend shared_prefix would fall back to stock: {reason}")
    elif arm == FALLBACK:
        trainer.use_length_groups()
        check_disentangled(trainer)


def _peak_mib() -> float:
    """Return the peak memory of the process, or of its GPU if it has one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
