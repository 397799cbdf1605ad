"""Inspect a base model and, with a plan, the data of a job."""

from __future__ import annotations

from pathlib import Path

from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Inspected
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder


def run(order: WorkOrder, channel: Channel) -> None:
    """The facts; with a plan also whether its data can be trained on, and what that will take."""
    from worker.reward_model.file_digests import check_unchanged, files_digest
    from worker.trainer.inspection.checkpoint import inspect

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
    from worker.reward_model.pair_tokenizer import PairTokenizer
    from worker.trainer.tasks.prepare_data import prepare_data

    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    prepare_data(order, plan, facts, tokenizer, channel)
