"""Inference servers and the adapters that they can serve."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.servable import servable_in

LLAMA = {"architecture": "LlamaForSequenceClassification", "vllm_servable": True}
BERT = {
    "architecture": "BertForSequenceClassification",
    "vllm_servable": False,
    "vllm_reasons": ["vLLM serves decoders"],
}
MERGED = {"is_merged": True, "vllm_servable": False, "vllm_reasons": []}


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (LLAMA, {"vllm"}),
        (LLAMA | MERGED, {"sglang"}),
        (BERT, set()),
        (BERT | MERGED, {"tei"}),
        ({"architecture": "GPT2ForSequenceClassification", **MERGED}, set()),
    ],
    ids=["decoder", "merged decoder", "encoder", "merged encoder", "rare"],
)
def test_servers(summary: dict[str, Any], expected: set[str]) -> None:
    found = servable_in(summary)
    assert {server for server, entry in found.items() if entry.is_servable} == expected
    assert all(entry.reasons for entry in found.values() if not entry.is_servable)
