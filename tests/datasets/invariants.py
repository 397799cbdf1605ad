"""The contract of stored rows (``app.domain.rows``) as assertions."""

from __future__ import annotations

import json
import math
from typing import Any

from app.datasets.canonical import DatasetSummary
from app.domain.rows import RESERVED_TEMPLATE_VARIABLES, ROLES, replies_of

_COMMON = {"chat_template_kwargs", "id", "line", "prompt", "slice", "tools"}
_KEYS = {
    "pairs": _COMMON | {"chosen", "margin", "rejected"},
    "ranked": _COMMON | {"replies"},
}
_MESSAGE_KEYS = {"content", "name", "reasoning_content", "role", "tool_call_id", "tool_calls"}


def check_stored(data: bytes, summary: DatasetSummary) -> list[dict[str, Any]]:
    """Assert that a dataset keeps the contract, and return its rows."""
    assert not data or data.endswith(b"\n")
    rows = [json.loads(line) for line in data.split(b"\n")[:-1]]
    lines = [row["line"] for row in rows]
    assert lines == sorted(set(lines))
    assert not lines or lines[0] >= 1
    for row in rows:
        _check_row(row, summary)
    assert summary.row_count == len(rows)
    assert summary.has_tools == any("tools" in row for row in rows)
    assert (summary.prompt == "explicit") == all("prompt" in row for row in rows)
    return rows


def _check_row(row: dict[str, Any], summary: DatasetSummary) -> None:
    assert list(row) == sorted(row)
    assert row.keys() <= _KEYS[summary.row_form], row
    is_chat = summary.format == "conversational"
    for reply in replies_of(row):
        _check_content(reply, is_chat=is_chat)
        assert not is_chat or reply[-1]["role"] == "assistant", row
    if "prompt" in row:
        _check_content(row["prompt"], is_chat=is_chat)
    if summary.row_form == "ranked":
        _check_replies(row["replies"])
    else:
        assert row["chosen"] != row["rejected"], row
        assert ("margin" in row) == summary.has_margin, row
        assert math.isfinite(row.get("margin", 0.0)), row
    if is_chat and "prompt" not in row:
        first = [reply[0] for reply in replies_of(row) if len(reply) > 1]
        assert len(first) < len(replies_of(row)) or any(each != first[0] for each in first), row
    assert is_chat or not {"tools", "chat_template_kwargs"} & row.keys(), row
    assert row.get("tools", True), row
    assert not RESERVED_TEMPLATE_VARIABLES & row.get("chat_template_kwargs", {}).keys(), row
    assert isinstance(row.get("slice", ""), str)
    assert isinstance(row.get("id", ""), str)


def _check_replies(replies: list[dict[str, Any]]) -> None:
    ranks = [each["rank"] for each in replies]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1 < ranks[-1]
    for each in replies:
        assert {"rank", "reply"} <= each.keys() <= {"rank", "reply", "score"}


def _check_content(content: Any, *, is_chat: bool) -> None:
    if not is_chat:
        assert isinstance(content, str), content
        assert content.strip(), content
        assert "\0" not in content
        return
    assert isinstance(content, list), content
    assert content
    for message in content:
        assert list(message) == sorted(message)
        assert {"content", "role"} <= message.keys() <= _MESSAGE_KEYS, message
        assert message["role"] in ROLES, message
        assert message["content"] is not None or message.get("tool_calls"), message
        assert isinstance(message["content"], str | None), message
        assert {"name", "tool_call_id"}.isdisjoint(message) or message["role"] == "tool", message
        for call in message.get("tool_calls", ()):
            assert call.keys() <= {"function", "id", "type"}, call
            assert call["function"].keys() == {"arguments", "name"}, call
