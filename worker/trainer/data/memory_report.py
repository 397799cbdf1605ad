"""Report how much memory a job needs, and whether its device has enough."""

from __future__ import annotations

from pydantic import JsonValue

from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.progress import Reported
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel
from worker.reward_model.loading import device_config_for
from worker.trainer.data.data_warnings import warn
from worker.trainer.memory_budget import device_memory_bytes, uses_activation_checkpointing
from worker.trainer.memory_estimate import StepConfig, estimate_memory, explain_shortage

#: Number of parameters above which a step on a CPU takes minutes.
MANY_PARAMETERS = 500_000_000


def report_memory(
    plan: TrainingPlan,
    facts: BaseModelFacts,
    longest: int,
    memory_limit: int | None,
    channel: Channel,
    measured: int | None = None,
) -> None:
    """Send the memory estimate, with warnings about a lack of memory and a slow run on a CPU.

    ``measured`` is the peak in bytes of a finished run; the report then has both.
    """
    device_config = device_config_for(plan)
    device_bytes = device_memory_bytes(device_config.device, memory_limit)
    is_chunked = plan.engine != "stock"
    step = StepConfig(
        device=device_config.device,
        bf16=device_config.bf16,
        longest=longest,
        activation_checkpointing=uses_activation_checkpointing(
            device_config.device,
            setting=plan.gradient_checkpointing,
            is_supported=facts.supports_gradient_checkpointing,
        ),
        chunked_device_bytes=device_bytes if is_chunked else None,
    )
    estimate = estimate_memory(facts, plan, step)
    document: dict[str, JsonValue] = {**estimate.document(), "device_bytes": device_bytes}
    if measured is not None:
        document["measured_peak_bytes"] = measured
    channel.send(Reported(name="memory", document=document))
    if measured is not None:
        return
    if shortage := explain_shortage(estimate, device_bytes):
        warn(channel, WarningCode.MEMORY_SHORT, shortage)
    if device_config.device == "cpu" and (cost := _cost_of_cpu(plan)):
        why = "this worker has no GPU" if plan.gpus else "resources.gpus is 0"
        warn(channel, WarningCode.TRAINED_ON_CPU, f"the job trains on the CPU, as {why}: {cost}")


def _cost_of_cpu(plan: TrainingPlan) -> str | None:
    """Return why a run on a CPU is slow, or None."""
    if plan.total_parameters > MANY_PARAMETERS:
        return (
            f"with the base model's {plan.total_parameters / 1e9:.1f} billion parameters a step "
            "takes minutes"
        )
    if plan.precision == "bf16":
        return "most CPUs compute in bfloat16 more slowly than in float32"
    return None
