"""Convert uploaded messages to messages of a stored dataset (``app.domain.rows``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.datasets.content_parts import read_parts
from app.datasets.row_errors import RowError, kind_of, shown
from app.datasets.texts import check_characters, check_text
from app.datasets.tool_calls import read_sharegpt_call, read_tool_calls
from app.datasets.unused import UnusedFields
from app.domain.rows import ROLES

#: Roles whose content may be empty: empty system texts and empty tool results are valid.
_MAY_BE_EMPTY = ("system", "developer", "tool")
#: ShareGPT's names of the roles; ``function_call`` is an assistant message that calls a tool.
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
#: Names of roles in other tools; "function" is OpenAI's earlier name of "tool".
_OTHER_ROLES = {
    "function": "tool", "ipython": "tool", "environment": "tool", "observation": "tool",
    "model": "assistant", "bot": "assistant", "chatbot": "assistant", "gpt": "assistant",
    "human": "user", "prompter": "user",
}  # fmt: skip
#: Names of the content where no key is called so; Gemini's messages have parts.
_OTHER_CONTENTS = ("value", "text", "parts")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_MESSAGES_HINT = 'write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'

Message = dict[str, Any]


def read_messages(path: str, items: list[Any], unused: UnusedFields) -> list[Message]:
    """Read and check a list of messages.

    ``path`` names the list in errors. Keys that no chat template reads are passed to ``unused``.

    Raises:
        RowError: a message is invalid; the error names the message, the key and the correction.
    """
    if not items:
        raise RowError("empty_conversation", "found an empty list", _MESSAGES_HINT, column=path)
    messages = []
    for index, item in enumerate(items):
        if type(item) is dict and len(item) == 2:  # fast path for nearly all messages
            content, role = item.get("content"), item.get("role")
            if (
                type(content) is str
                and role in ("user", "assistant")
                and content
                and not content.isspace()
                and "\0" not in content
            ):
                messages.append({"content": content, "role": role})
                continue
        messages.append(_message(f"{path}[{index}]", item, unused))
    return messages


def check_reply(path: str, messages: list[Message]) -> None:
    """Reject a conversation that does not end with a message of the assistant.

    Raises:
        RowError: the last message has another role.
    """
    if (role := messages[-1]["role"]) != "assistant":
        raise RowError(
            "last_not_assistant",
            f"the last message is by {role}",
            "end it with the assistant's reply, which is what is judged",
            column=f"{path}[{len(messages) - 1}].role",
        )


def message_texts(message: Mapping[str, Any]) -> list[str]:
    """Return the content and the reasoning of a stored message, without empty ones."""
    return [text for key in ("content", "reasoning_content") if (text := message.get(key))]


def _message(path: str, item: Any, unused: UnusedFields) -> Message:
    if not isinstance(item, dict):
        raise RowError(
            "wrong_type", f"found {kind_of(item)}, not a message", _MESSAGES_HINT, column=path
        )
    role = _role(path, item)
    message: Message = {"role": role}
    content_key = _content_key(item)
    used = {"role", content_key, "tool_calls", "function_call", *_REASONING_KEYS}
    if "role" not in item or _SHAREGPT_ROLES.get(str(item.get("from"))) == role:
        used.add("from")
    if item.get("from") == "function_call":
        message["tool_calls"] = [read_sharegpt_call(f"{path}.value", item.get("value"), unused)]
        content_key = "content"
        used.add(content_key)
    if reasoning := _reasoning(path, item):
        message["reasoning_content"] = reasoning
    if calls := read_tool_calls(path, item, unused):
        message["tool_calls"] = [*message.get("tool_calls", ()), *calls]
    if role == "tool":
        for key in ("name", "tool_call_id"):
            used.add(key)
            if (value := item.get(key)) is not None:
                message[key] = _text_of(f"{path}.{key}", value)
    message["content"] = _content(path, item.get(content_key), message, unused)
    if not item.keys() <= used:
        _check_one_content(path, item)
        unused.check_keys(path, item, used)
    return dict(sorted(message.items()))


def _content_key(item: Mapping[str, Any]) -> str:
    """Return the name of the key that holds the content of a message."""
    if item.get("from") is not None and "value" in item:
        return "value"
    if item.get("content") is not None:
        return "content"
    return next((key for key in _OTHER_CONTENTS if item.get(key) is not None), "content")


def _check_one_content(path: str, item: Mapping[str, Any]) -> None:
    """Reject a message with another text under ShareGPT's name of the content."""
    content, value = item.get("content"), item.get("value")
    if content and value and content != value:
        raise RowError(
            "two_values",
            "the message has two different texts",
            "keep one of content and value",
            column=path,
        )


def _role(path: str, item: Mapping[str, Any]) -> str:
    if "from" in item and "role" not in item:
        sender = item["from"]
        if isinstance(sender, str) and sender.lower() in _SHAREGPT_ROLES:
            return _SHAREGPT_ROLES[sender.lower()]
        found, key = sender, "from"
        known = ", ".join(_SHAREGPT_ROLES)
    else:
        found, key = item.get("role"), "role"
        if isinstance(found, str) and (name := found.lower()) in ROLES:
            return name
        if isinstance(found, str) and name in _OTHER_ROLES:
            return _OTHER_ROLES[name]
        known = ", ".join(ROLES)
    raise RowError(
        "unknown_role",
        f"found {shown(found) if isinstance(found, str) else kind_of(found)}",
        f"{key} must be one of {known}",
        column=f"{path}.{key}",
    )


def _content(path: str, content: Any, message: Message, unused: UnusedFields) -> str | None:
    """Return the content as text, and move thinking parts to ``reasoning_content``."""
    column = f"{path}.content"
    if isinstance(content, list):
        content, thinking = read_parts(column, content, unused)
        if thinking:
            if message.get("reasoning_content") not in (None, thinking):
                raise _two_reasonings(path)
            message["reasoning_content"] = thinking
    if isinstance(content, str):
        if message["role"] in _MAY_BE_EMPTY or message.get("tool_calls"):
            check_characters(column, content)
        else:
            check_text(column, content)
        return content
    if content is None:
        if message.get("tool_calls"):
            return None
        raise RowError(
            "missing_content",
            "found null",
            "content must be text, or a list of text parts",
            column=column,
        )
    raise RowError(
        "wrong_type",
        f"found {kind_of(content)}",
        "content must be text, or a list of text parts",
        column=column,
    )


def _reasoning(path: str, item: Mapping[str, Any]) -> str | None:
    found: str | None = None
    for key in _REASONING_KEYS:
        value = item.get(key)
        if value is None or value == "":
            continue
        text = _text_of(f"{path}.{key}", value)
        if found not in (None, text):
            raise _two_reasonings(path)
        found = text
    return found


def _text_of(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError("wrong_type", f"found {kind_of(value)}", "give text", column=path)
    check_characters(path, value)
    return value


def _two_reasonings(path: str) -> RowError:
    return RowError(
        "two_values",
        "the message has two different reasoning texts",
        "keep one of reasoning_content, reasoning and thinking",
        column=path,
    )
