"""What can be said before anything is trained: what is odd about the data, what memory it takes."""

from __future__ import annotations

from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Noted, Reported
from worker.trainer.channel import Channel
from worker.trainer.memory import checkpoints_activations, estimate_memory, explain
from worker.trainer.model import Numerics, memory_bytes
from worker.trainer.report import Survey


def say_foresight(
    survey: Survey,
    facts: BaseModelFacts | None,
    plan: TrainingPlan,
    numerics: Numerics,
    channel: Channel,
) -> None:
    """The dataset report and, where the model's facts are known, the memory estimate."""
    channel.say(Reported(name="dataset", document=survey.document()))
    if facts is None:
        return
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
    )
    there = memory_bytes(numerics.device)
    channel.say(Reported(name="memory", document={**estimate.document(), "device_bytes": there}))
    if reason := explain(estimate, there):
        channel.say(Noted(code="memory_short", message=reason, is_warning=True))
