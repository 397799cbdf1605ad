"""Parameters that the routes of evaluations share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

EVALUATION_ID = r"^eval_[0-9a-f]{32}$"
EvaluationId = Annotated[str, Path(pattern=EVALUATION_ID)]
Adapter = Annotated[
    str | None,
    Query(
        pattern=r"^(ad_[0-9a-f]{32}|base:untrained)$",
        description="A model of the evaluation; default: its first adapter.",
    ),
]
