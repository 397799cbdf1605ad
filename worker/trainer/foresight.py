"""What can be said before anything is trained: what is odd about the data, what memory it takes."""

from __future__ import annotations

from app.domain.order import WorkOrder
from app.domain.plan import BaseModelFacts
from app.domain.progress import Noted, Reported
from worker.trainer.channel import Channel
from worker.trainer.memory import checkpoints_activations, estimate_memory, explain
from worker.trainer.model import memory_bytes, numerics_for
from worker.trainer.report import Survey


def say_foresight(
    survey: Survey, order: WorkOrder, facts: BaseModelFacts | None, channel: Channel
) -> None:
    """The dataset report and, where the model's facts are known, the memory estimate."""
    channel.say(Reported(name="dataset", document=survey.document()))
    plan = order.plan
    if facts is None or plan is None:
        return
    numerics = numerics_for(plan)
    there = memory_bytes(numerics.device, order.memory_bytes)
    is_packed = plan.engine != "stock" and facts.is_causal and not plan.lora["lora_dropout"]
    estimate = estimate_memory(
        facts,
        plan,
        longest=survey.longest,
        device=numerics.device,
        bf16=numerics.bf16,
        gradient_checkpointing=checkpoints_activations(
            plan.gradient_checkpointing,
            numerics.device,
            can_checkpoint=facts.supports_gradient_checkpointing,
        ),
        device_bytes=there if is_packed else None,
    )
    channel.say(Reported(name="memory", document={**estimate.document(), "device_bytes": there}))
    if reason := explain(estimate, there):
        channel.say(Noted(code="memory_short", message=reason, is_warning=True))
