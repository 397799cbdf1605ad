"""Text and conversations: what may stand in prompt, chosen and rejected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.datasets.row_errors import ProblemCode, RowError, kind_of, shown

ROLES = ("system", "user", "assistant")
# A reply may well begin with the words of a short prompt ("Hi" → "Hi there").
_MIN_REPEATED_PROMPT_CHARACTERS = 20
_PYTHON_REPR = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:")
ENCODED_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|content|from|value)"\s*:')
_MESSAGES_HINT = 'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'


def checked_side(name: str, value: Any) -> str | list[dict[str, str]]:
    """A prompt, chosen or rejected: text as it is, messages with their role and content only.

    Raises:
        RowError: names the message and the key, what was found and what to write instead.
    """
    if isinstance(value, str):
        _check_text(name, value)
        if _PYTHON_REPR.match(value):
            raise RowError(
                "python_repr",
                "found Python's print of a list",
                "write the list as JSON (json.dumps before to_csv)",
                column=name,
            )
        if ENCODED_MESSAGES.match(value):
            raise RowError(
                "encoded_messages",
                "found messages as JSON inside a string",
                "give the list itself, unquoted",
                column=name,
            )
        return value
    if not isinstance(value, list):
        raise RowError(
            "wrong_type",
            f"found {kind_of(value)}",
            "give text or a list of {role, content}",
            column=name,
        )
    if not value:
        raise RowError("empty_conversation", "found an empty list", _MESSAGES_HINT, column=name)
    messages = [_message(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if name != "prompt" and messages[-1]["role"] != "assistant":
        raise RowError(
            "last_not_assistant",
            f"the last message is by {messages[-1]['role']}",
            "end it with the assistant's reply, which is what is judged",
            column=f"{name}[{len(messages) - 1}].role",
        )
    return messages


def check_sides(pair: Mapping[str, Any]) -> None:
    """Hold chosen, rejected and prompt of one row against each other.

    Raises:
        RowError: they differ in format, say the same, or say the prompt twice.
    """
    chosen, rejected, prompt = pair["chosen"], pair["rejected"], pair.get("prompt")
    for name, side in (("rejected", rejected), ("prompt", prompt)):
        if side is not None and type(side) is not type(chosen):
            raise RowError(
                "mixed_format",
                f"{name} is {kind_of(side)}, chosen is {kind_of(chosen)}",
                "use text for all, or lists of messages for all",
                column=name,
            )
    if chosen == rejected:
        raise RowError(
            "identical_pair",
            "rejected is the same as chosen",
            "leave the row out; there is nothing to learn from it",
            column="rejected",
        )
    if prompt is not None and _is_prompt_repeated(prompt, chosen, rejected):
        raise RowError(
            "prompt_repeated",
            "chosen or rejected begins with the prompt, which would then be read twice",
            "leave the prompt column out, or take the prompt out of chosen and rejected",
            column="chosen",
        )


def _message(path: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RowError(
            "wrong_type", f"found {kind_of(value)}, not a message", _MESSAGES_HINT, column=path
        )
    if "role" not in value and ("from" in value or "value" in value):
        raise RowError(
            "sharegpt_keys",
            "found from/value",
            "rename them to role/content (human → user, gpt → assistant)",
            column=path,
        )
    if value.get("tool_calls"):
        raise RowError(
            "tool_calls",
            "tool calls are not supported yet",
            "leave the pair out, or write the call into content",
            column=f"{path}.tool_calls",
        )
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        found = shown(role) if isinstance(role, str) else kind_of(role)
        raise RowError(
            "unknown_role",
            f"found {found}",
            "role must be system, user or assistant",
            column=f"{path}.role",
        )
    if isinstance(content, str):
        _check_text(f"{path}.content", content)
        return {"content": content, "role": role}
    code: ProblemCode = "wrong_type"
    if content is None:
        code = "missing_content"
    if isinstance(content, list):
        code = "content_parts"
    raise RowError(
        code,
        f"found {kind_of(content)}",
        "content must be text; only text is supported",
        column=f"{path}.content",
    )


def _check_text(path: str, text: str) -> None:
    if not text or text.isspace():
        raise RowError(
            "empty_text", "the text is empty", "leave out the row or the message", column=path
        )
    if "\0" in text:
        raise RowError(
            "nul_character",
            f"found a NUL character at position {text.index(chr(0)) + 1}",
            "remove it; it is no text",
            column=path,
        )


def _is_prompt_repeated(prompt: Any, chosen: Any, rejected: Any) -> bool:
    if isinstance(prompt, str):
        is_long = len(prompt) >= _MIN_REPEATED_PROMPT_CHARACTERS
        return is_long and chosen.startswith(prompt) and rejected.startswith(prompt)
    count = len(prompt)
    return bool(chosen[:count] == prompt or rejected[:count] == prompt)
