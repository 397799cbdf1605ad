"""An order carried out: inspect, train or merge, from the first message to the exit status."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch

from app.domain.order import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, WorkOrder
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Failed, Inspected
from app.domain.progress import Stopped as StoppedMessage
from worker.trainer.channel import Channel
from worker.trainer.diagnosis import diagnose
from worker.trainer.failures import Stopped, TrainerFailure


def carry_out(order: WorkOrder, channel: Channel) -> int:
    """Do what the order says; every way it can end is a message and an exit status."""
    torch.set_num_threads(order.threads)
    try:
        _ACTIONS[order.action](order, channel)
    except Stopped as stopped:
        channel.say(StoppedMessage(step=stopped.step))
        return EXIT_STOPPED
    except BaseException as error:  # noqa: BLE001 - the supervisor hears of all of them
        failure = diagnose(error)
        if not isinstance(error, TrainerFailure) or error.__cause__:
            traceback.print_exc(file=sys.stderr)
        channel.say(Failed(code=failure.code, detail=failure.detail[:8000], step=failure.step))
        return EXIT_FAILED
    return EXIT_DONE


# Each imports what it needs: an inspection has no use for trl, peft and datasets.


def _train(order: WorkOrder, channel: Channel) -> None:
    from worker.trainer.job import train_job

    train_job(order, channel)


def _inspect(order: WorkOrder, channel: Channel) -> None:
    """The facts; with a plan also whether its data can be trained on, and what that will take."""
    from worker.trainer.files import check_unchanged, files_digest
    from worker.trainer.inspection import inspect

    facts = inspect(
        Path(order.model_dir),
        revision=order.revision,
        chat_template=order.chat_template,
        digest=files_digest(Path(order.model_dir)),
    )
    if order.plan is not None:
        check_unchanged(order, order.plan.base_model.digest, facts.digest)
        _foresee(order, order.plan, facts, channel)
    channel.say(Inspected(facts=facts))


def _foresee(order: WorkOrder, plan: TrainingPlan, facts: BaseModelFacts, channel: Channel) -> None:
    from worker.trainer.foresight import foresee
    from worker.trainer.tokenization import PairTokenizer

    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    foresee(order, plan, facts, tokenizer, channel)


def _merge(order: WorkOrder, channel: Channel) -> None:
    from worker.trainer.merging import merge

    merge(order, channel)


_ACTIONS = {"inspect": _inspect, "train": _train, "merge": _merge}
