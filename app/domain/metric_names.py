"""Names of the groups of an evaluation's metrics: ``eval/accuracy``, ``eval_maths/accuracy``.

TRL and transformers call the same metrics ``eval_accuracy`` and ``eval_maths_accuracy``.
"""

from __future__ import annotations

#: The group of the pairs of ``eval_dataset``.
EVAL = "eval"
BEFORE = "eval_before"


def eval_group(name: str | None) -> str:
    """Return the group of a dataset of ``eval_datasets``; None: of ``eval_dataset``."""
    return EVAL if name is None else f"{EVAL}_{name}"


def before(group: str) -> str:
    """Return the group of the same metrics before training."""
    return BEFORE + group.removeprefix(EVAL)
