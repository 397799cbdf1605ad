"""Inspect a base model and, if the order has a plan, the data of a job."""

from __future__ import annotations

from pathlib import Path

from app.domain.progress import Inspected
from worker.ipc.channel import Channel
from worker.ipc.order import WorkOrder
from worker.reward_model.file_digests import model_digest
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.preparation import DataInputs, prepare_data, report_sample
from worker.trainer.inspection.base_model import inspect_base_model
from worker.trainer.inspection.base_model_files import check_base_model_unchanged


def run(order: WorkOrder, channel: Channel) -> None:
    """Send the facts; with a plan also check its data and report the memory that training needs.

    Raises:
        StoppedError: the supervisor requested a stop.
        TrainerError: with the code with which a training job would fail.
    """
    facts = inspect_base_model(
        Path(order.model_dir),
        revision=order.revision,
        chat_template=order.chat_template,
        digest=model_digest(Path(order.model_dir)),
    )
    if plan := order.plan:
        check_base_model_unchanged(order, plan.base_model.digest, actual=facts.digest)
        tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
        inputs = DataInputs(order, plan, facts, tokenizer, channel)
        report_sample(inputs)
        prepare_data(inputs)
    channel.send(Inspected(facts=facts))
