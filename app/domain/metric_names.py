"""Names in metrics: their groups (``eval/accuracy``, ``eval_maths/accuracy``) and units of length.

TRL and transformers call the same metrics ``eval_accuracy`` and ``eval_maths_accuracy``.
"""

from __future__ import annotations

#: The group of the pairs of ``eval_dataset``.
EVAL = "eval"
BEFORE = "eval_before"
#: Units of lengths: in evaluations, and in the report of a training job.
CHARACTERS, TOKENS = "characters of the reply", "tokens of prompt and reply"


def eval_group(name: str | None) -> str:
    """Return the group of a dataset of ``eval_datasets``; None: of ``eval_dataset``."""
    return EVAL if name is None else f"{EVAL}_{name}"


def before(group: str) -> str:
    """Return the group of the same metrics before training."""
    return BEFORE + group.removeprefix(EVAL)
