"""Forms of the values in a column: text, messages, several replies."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from app.datasets.shapes.dialogues import is_dialogue


class Form(StrEnum):
    """Form of a value of a part."""

    NONE = "null"
    TEXT = "text"
    DIALOGUE = "text with Human: and Assistant: turns"
    MESSAGE = "one message"
    MESSAGES = "a list of messages"
    TEXTS = "a list of texts"
    CONVERSATIONS = "a list of conversations"
    OTHER = "something else"


#: Forms that become messages, independently of the other parts of the row.
CHAT = frozenset({Form.MESSAGE, Form.MESSAGES, Form.CONVERSATIONS})
#: Forms that hold several replies.
SEVERAL = frozenset({Form.TEXTS, Form.CONVERSATIONS})


def form_of(value: Any) -> Form:
    """Return the form of a value; an empty list counts as a list of messages."""
    if value is None:
        return Form.NONE
    if isinstance(value, str):
        return Form.DIALOGUE if is_dialogue(value) else Form.TEXT
    if isinstance(value, dict):
        return Form.MESSAGE if {"role", "content", "from", "value"} & value.keys() else Form.OTHER
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if kinds <= {dict}:
            return Form.MESSAGES
        if kinds == {str}:
            return Form.TEXTS
        if kinds == {list}:
            return Form.CONVERSATIONS
    return Form.OTHER
