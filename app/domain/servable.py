"""Decide which inference servers can serve an adapter or a merged model, with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Sequence classifiers that SGLang 0.5 supports; its LoRA support loads no reward head.
SGLANG_CLASSIFIERS = frozenset(
    {f"{name}ForSequenceClassification" for name in ("Gemma2", "Llama", "Qwen2", "Qwen3")}
)
#: Sequence classifiers that Text Embeddings Inference 1.9 supports; it loads no LoRA.
TEI_CLASSIFIERS = frozenset(
    {
        f"{name}ForSequenceClassification"
        for name in ("Bert", "Camembert", "DebertaV2", "ModernBert", "Roberta", "XLMRoberta")
    }
)
_MERGE = "merge it into its base model first"


class Servable(NamedTuple):
    """Whether a server can serve a model, with the reasons against it or the settings for it."""

    is_servable: bool
    reasons: list[str]


def servable_in(summary: Mapping[str, Any]) -> dict[str, Servable]:
    """Return an entry for each server; ``summary`` is the content of reward_model.json."""
    is_vllm = bool(summary.get("vllm_servable"))
    vllm_reasons = list(summary.get("vllm_reasons", []))
    if summary.get("is_merged") and not is_vllm:
        vllm_reasons = ["vLLM was not tried with this merged model; its adapter is what is checked"]
    return {
        "vllm": Servable(is_vllm, vllm_reasons),
        "sglang": _merged_in(
            "SGLang", summary, SGLANG_CLASSIFIERS, "read the reward from /v1/embeddings"
        ),
        "tei": _merged_in(
            "TEI", summary, TEI_CLASSIFIERS, "send raw_scores: true, because it applies a sigmoid"
        ),
    }


def _merged_in(
    server: str, summary: Mapping[str, Any], classifiers: frozenset[str], advice: str
) -> Servable:
    architecture = str(summary.get("architecture"))
    if architecture not in classifiers:
        return Servable(False, [f"{server} has no {architecture}"])  # noqa: FBT003
    if not summary.get("is_merged"):
        return Servable(False, [f"{server} loads no LoRA with a reward head; {_MERGE}"])  # noqa: FBT003
    return Servable(True, [advice])  # noqa: FBT003
