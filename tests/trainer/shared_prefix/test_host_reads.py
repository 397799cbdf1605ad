"""A micro-step makes the host wait for the device once."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl import RewardTrainer

from tests.model_factories.reward_trainers import make_rows, make_trainer
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer
from worker.trainer.training.reward_trainer import plaudit_trainer_class

ROWS = make_rows([(5, 3, 6), (9, 2, 2), (0, 4, 7), (12, 6, 3)] * 2)
#: Functions that compute on the device, so that a read of any number within them waits for it.
ON_DEVICE = {"rewards", "hidden_at_rewards", "backward"}


class HostReads(TorchDispatchMode):
    """Counts the tensors of the device whose values the host reads, as ``bool(t)`` does.

    On a CPU, tensors of the host and of the device look alike. Token ids, lengths and masks belong
    to the host, because the loader leaves batches there. Floating-point numbers, and values
    compared with them, belong to the device.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        self._is_on = False
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self._see(args[0])
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Any:
        self._is_on = True
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        self._is_on = False
        super().__exit__(*args)

    def _counting(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *args: Any) -> Any:
            self._see(tensor)
            return read(tensor, *args)

        return counted

    def _see(self, tensor: torch.Tensor) -> None:
        is_number = tensor.is_floating_point() or tensor.dtype == torch.bool
        self.count += self._is_on and (is_number or _is_within_device_code())


def _is_within_device_code() -> bool:
    frame = sys._getframe(2)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name in ON_DEVICE:
            return True
    return False


def reads_of_steps(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Train; return the reads of each micro-step."""
    step, found = trainer.training_step, []

    def counted(*args: Any) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch, HostReads(patch) as reads:
            loss: torch.Tensor = step(*args)
        found.append(reads.count)
        return loss

    monkeypatch.setattr(trainer, "training_step", counted)
    trainer.train()
    return found


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_micro_step_reads_from_the_device_once(tmp_path, monkeypatch, family):
    trainer = make_trainer(
        plaudit_trainer_class(SharedPrefixRewardTrainer),
        tmp_path,
        ROWS,
        model=family,
        gradient_accumulation_steps=2,
        max_steps=2,
        center_rewards_coefficient=0.01,
    )
    assert trainer.activation_cost.per_token > 0  # measured once in a run
    assert reads_of_steps(trainer, monkeypatch) == [1, 1, 1, 1]


def test_micro_step_of_length_groups_reads_from_the_device_once(tmp_path, monkeypatch):
    trainer = make_trainer(plaudit_trainer_class(SharedPrefixRewardTrainer), tmp_path, ROWS)
    trainer.use_length_groups()
    assert trainer.activation_cost.per_token > 0
    (reads,) = reads_of_steps(trainer, monkeypatch)
    assert reads <= 1 + 2 * len(ROWS)  # transformers looks whether a mask has padding


def test_stock_trl_reads_more_often(tmp_path, monkeypatch):
    """The counter sees the reads of a trainer that was not written to avoid them."""
    trainer = make_trainer(plaudit_trainer_class(RewardTrainer), tmp_path, ROWS)
    (reads,) = reads_of_steps(trainer, monkeypatch)
    assert reads >= 5


def test_batches_stay_on_the_host(tmp_path):
    trainer = make_trainer(SharedPrefixRewardTrainer, tmp_path, ROWS)
    assert trainer.get_train_dataloader().device is None
    assert make_trainer(RewardTrainer, tmp_path, ROWS).get_train_dataloader().device is not None
