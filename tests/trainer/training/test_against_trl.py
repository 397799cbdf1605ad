"""A stock run gives the adapter that TRL's own trainer gives from the same data, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from transformers import PreTrainedTokenizerBase
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import RecordingChannel
from tests.model_factories.training_runs import make_run
from worker.ipc.order import WorkOrder
from worker.trainer.data.row_files import read_rows
from worker.trainer.training.backend import choose_backend
from worker.trainer.training.lora import trainable_parameters
from worker.trainer.training.run import train

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
HEAD_BIAS = "modules_to_save.default.bias"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("model", ["llama", "minilm"])
def test_stock_run_gives_the_weights_that_trl_gives(
    model: str,
    dropout: float,
    work: Path,
    channel: RecordingChannel,
    request: pytest.FixtureRequest,
) -> None:
    base: TinyBase = request.getfixturevalue(model)
    order = base.order(
        count=12,
        eval_count=0,
        lora={"dropout": dropout},
        training={"engine": "stock", "per_device_batch_size": 2, "batch_size": 4, "epochs": 1},
    )
    run = make_run(order, channel)
    assert choose_backend(run, channel) == "stock"
    ours = run.trainer.model
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    trainable = {name for name, _ in trainable_parameters(ours)}
    train(run, None)
    theirs = train_with_trl(order, run.trainer.processing_class, work)

    expected, found = get_peft_model_state_dict(theirs), get_peft_model_state_dict(ours)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    changed = {n for n, p in ours.named_parameters() if not torch.equal(p, before[n])}
    expected_to_change = {n for n in trainable if "lora_B" in n or "modules_to_save" in n}
    # The last bias of an encoder's head cancels out of the loss; rounding errors may change it.
    assert changed >= {n for n in expected_to_change if not n.endswith(f"classifier.{HEAD_BIAS}")}
    assert changed <= trainable


def train_with_trl(
    order: WorkOrder, tokenizer: PreTrainedTokenizerBase, output_dir: Path
) -> PeftModel:
    assert order.plan
    arguments = order.plan.reward_kwargs() | {"save_strategy": "no"}
    rows = [
        {k: row[k] for k in ("prompt", "chosen", "rejected")}
        for row in read_rows(str(order.train_file))
    ]
    trainer = RewardTrainer(
        order.model_dir,
        RewardConfig(
            str(output_dir), use_cpu=True, bf16=False, gradient_checkpointing=False,
            disable_tqdm=True, **arguments,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(**order.plan.lora_kwargs()),
    )  # fmt: skip
    for name, module in trainer.model.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0  # TRL disables all dropout or none; Plaudit keeps LoRA's only
    trainer.train()
    return trainer.model
