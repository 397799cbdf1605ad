"""How a training run ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import JsonValue

from app.domain.metric_names import EVAL
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted
from app.domain.warnings import WarningCode


@dataclass(frozen=True)
class TrainingOutcome:
    """Number of completed steps, steps of the plan, and the step of the published model."""

    steps: int
    planned_steps: int
    published_step: int

    @property
    def is_early(self) -> bool:
        """Whether training stopped before its last step."""
        return self.steps < self.planned_steps

    def document(self) -> dict[str, JsonValue]:
        """Return the entry of run.lock.json."""
        return {**asdict(self), "stopped_early": self.is_early}

    def note(self, loss: str) -> Noted | None:
        """Return the event about an early end, or about a model that is not from the last step.

        ``loss`` names the loss by which the published step was chosen.
        """
        if self.published_step == self.planned_steps:
            return None
        if self.is_early:
            code = WarningCode.STOPPED_EARLY
            end = (
                f"training stopped early after step {self.steps} of {self.planned_steps}, as the "
                f"{loss} did not fall any more"
            )
        else:
            code = WarningCode.BEST_STEP_PUBLISHED
            end = f"training ended after step {self.steps}"
        message = (
            f"{end}. The adapter is the model of step {self.published_step}, which has the lowest "
            f"{loss}"
        )
        return Noted(code=code, message=message, data=self.document())


def monitored_loss(plan: TrainingPlan) -> str:
    """Return the name of the loss by which early stopping chooses a step, for people."""
    name = str(plan.reward["metric_for_best_model"])
    if name == f"{EVAL}_loss":
        return "evaluation loss"
    return f"{name.removesuffix('_loss')}/loss"
