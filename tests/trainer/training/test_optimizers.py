"""Every schedule and every optimiser of torch that a spec can name changes the weights."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from app.domain.training_spec import TorchOptimizer, TrainingSpec
from tests.model_factories.orders import TinyBase
from tests.model_factories.trainer_process import RecordingChannel
from tests.model_factories.training_runs import make_run
from worker.trainer.training.lora import parameter_digests
from worker.trainer.training.run import train

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
SCHEDULES = get_args(TrainingSpec.model_fields["lr_scheduler"].annotation)


@pytest.mark.parametrize(
    "training",
    [
        *({"optimizer": name} for name in get_args(TorchOptimizer)),
        *({"lr_scheduler": name} for name in SCHEDULES),
        {"lr_scheduler": "constant_with_warmup", "warmup_steps": 1},
    ],
    ids=lambda training: "-".join(map(str, training.values())),
)
def test_two_steps_move_the_weights(
    training: dict[str, object], llama: TinyBase, channel: RecordingChannel, work: Path
) -> None:
    order = llama.order(count=8, eval_count=0, training={**training, "max_steps": 2})
    run = make_run(order, channel)
    train(run, resume_from=None)
    moved = parameter_digests(run.trainer.model)
    assert all(
        moved[name] != digest for name, digest in run.untrained_digests.items() if "lora_B" in name
    )
