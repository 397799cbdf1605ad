"""Options of an upload: how its rows are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OnInvalid = Literal["refuse", "skip"]
#: Parts that ``columns[…]`` can map, including ``label``.
MAPPABLE = (
    "prompt", "system", "history", "input", "chosen", "rejected", "response_a", "response_b",
    "label", "score_a", "score_b", "answers", "scores", "ranks", "margin", "slice", "id", "tools",
    "chat_template_kwargs",
)  # fmt: skip
LABELS = ("a", "b", "tie")
#: Increase it if the same file is now read differently: the file is then stored again.
READER_VERSION = 5


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading an upload.

    ``columns`` maps parts to columns. ``labels`` maps ``a``, ``b`` and ``tie`` to values of the
    label column, separated by commas. ``chat_template_kwargs`` are variables of the chat template
    for all rows. They are stored beside the rows because a job may replace them.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ignore_columns: frozenset[str] = frozenset()
    on_invalid: OnInvalid = "refuse"
    chat_template_kwargs: Mapping[str, bool | int | float | str] = field(default_factory=dict)

    def identity(self, upload_sha256: str) -> str:
        """Return the sha256 of all inputs of the result: the bytes, the options, the reader."""
        document: dict[str, Any] = {
            "upload": upload_sha256,
            "version": READER_VERSION,
            "columns": dict(self.columns),
            "labels": dict(self.labels),
            "ignore_columns": sorted(self.ignore_columns),
            "on_invalid": self.on_invalid,
        }
        if self.chat_template_kwargs:  # datasets of earlier versions have none
            document["chat_template_kwargs"] = dict(self.chat_template_kwargs)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
