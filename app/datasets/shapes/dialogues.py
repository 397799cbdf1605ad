r"""Text such as ``\n\nHuman: Hi\n\nAssistant: Hello`` (Anthropic's hh-rlhf) → messages."""

from __future__ import annotations

import re
from typing import Any

from app.datasets.row_errors import RowError, shown
from app.datasets.texts import check_text

_START = re.compile(r"\s*Human:")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def is_dialogue(text: str) -> bool:
    """Whether the text begins with a human turn and has an assistant turn after it."""
    return _START.match(text) is not None and "\n\nAssistant:" in text


def read_dialogue(path: str, text: str) -> list[dict[str, Any]]:
    """The turns of a dialogue; an empty last turn of the assistant asks for the reply and is cut.

    Raises:
        RowError: the text is not such a dialogue, or a turn is empty.
    """
    if not is_dialogue(text):
        raise RowError(
            "not_a_dialogue",
            f"found {shown(text)}, while other rows have Human: and Assistant: turns",
            "begin each text with Human: and each further turn with an empty line and its role",
            column=path,
        )
    pieces = _TURN.split("\n\n" + text.lstrip())
    roles, texts = pieces[1::2], [piece.strip() for piece in pieces[2::2]]
    if path == "prompt" and not texts[-1] and roles[-1] == "Assistant":
        roles, texts = roles[:-1], texts[:-1]
    messages = []
    for index, (role, turn) in enumerate(zip(roles, texts, strict=True)):
        check_text(f"{path}, turn {index + 1}", turn)
        messages.append({"content": turn, "role": _ROLES[role]})
    return messages
