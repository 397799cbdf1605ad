"""Our run is TRL's: the same adapter bits as its own trainer makes from the same data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from transformers import set_seed
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from tests.trainer.conftest import Base, Recorder
from worker.reward_model.loading import device_config_for, load_base, trainable, wrap
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pairs import tokenize
from worker.trainer.data.tokenized_rows import PairFile, read_rows
from worker.trainer.training.run import build_run, choose_engine, train

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("model", ["llama", "minilm"])
def test_makes_the_weights_that_trl_makes(
    model: str, dropout: float, work: Path, recorder: Recorder, request: pytest.FixtureRequest
) -> None:
    base: Base = request.getfixturevalue(model)
    order = base.order(
        count=12,
        eval_count=0,
        lora={"dropout": dropout},
        training={"engine": "stock", "per_device_batch_size": 2, "batch_size": 4, "epochs": 1},
    )
    plan = order.plan
    assert plan
    assert order.train_file
    numerics = device_config_for(plan)
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    pairs = tokenize(PairFile(Path(order.train_file)), tokenizer).pairs
    set_seed(42)
    ours = wrap(load_base(order.model_dir, numerics, plan.head_modules), plan)
    frozen = {n: p.clone() for n, p in ours.named_parameters() if not p.requires_grad}
    run = build_run(ours, tokenizer.tokenizer, plan, numerics, pairs, [], recorder, 300, 1 << 34)  # type: ignore[arg-type]
    assert choose_engine(run, recorder) == "stock"  # type: ignore[arg-type]
    before = {name: p.detach().clone() for name, p in trainable(ours)}
    train(run, None)

    lora, reward = plan.kwargs()
    rows = [
        {k: row[k] for k in ("prompt", "chosen", "rejected")} for row in read_rows(order.train_file)
    ]
    theirs = RewardTrainer(
        str(base.directory),
        RewardConfig(
            str(work), use_cpu=True, bf16=False, gradient_checkpointing=False,
            disable_tqdm=True, **(reward | {"save_strategy": "no"}),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer.tokenizer,
        peft_config=LoraConfig(**lora),
    )  # fmt: skip
    for name, module in theirs.model.named_modules():
        if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
            module.p = 0.0  # TRL has all dropout or none; ours is LoRA's alone
    theirs.train()
    wanted = get_peft_model_state_dict(theirs.model)
    found = get_peft_model_state_dict(ours)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    # And what should move moved, the head as well; nothing else did.
    moved = {n for n, p in trainable(ours) if not torch.equal(p, before[n])}
    assert moved >= {n for n in before if "lora_B" in n or "modules_to_save" in n}
    assert all(torch.equal(p, frozen[n]) for n, p in ours.named_parameters() if n in frozen)
