"""Training runs in the test's own process."""

from __future__ import annotations

from pathlib import Path

from transformers import set_seed

from tests.model_factories.trainer_process import RecordingChannel
from worker.ipc.order import WorkOrder
from worker.reward_model.loading import device_config_for, load_base
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import tokenize_pairs
from worker.trainer.data.tokenized_file import PairFile
from worker.trainer.training.lora import add_lora
from worker.trainer.training.run import RunInputs, TrainingRun, build_run


def make_run(
    order: WorkOrder, channel: RecordingChannel, *, checkpoint_seconds: float = 300
) -> TrainingRun:
    """Build the run of an order to train without eval pairs."""
    plan = order.plan
    assert plan
    device_config = device_config_for(plan)
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    pairs = tokenize_pairs(PairFile(Path(str(order.train_file))), tokenizer).pairs
    set_seed(plan.reward_arguments.seed)
    model = add_lora(load_base(order.model_dir, device_config, plan.head_modules), plan)
    inputs = RunInputs(
        plan=plan,
        device_config=device_config,
        device_bytes=1 << 34,
        train_pairs=pairs,
        eval_sets=[],
        checkpoint_seconds=checkpoint_seconds,
    )
    return build_run(model, tokenizer.tokenizer, inputs, channel)
