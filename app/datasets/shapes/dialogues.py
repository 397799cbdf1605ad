r"""Convert text such as ``\n\nHuman: Hi\n\nAssistant: Hello`` (Anthropic's hh-rlhf) to messages."""

from __future__ import annotations

from typing import Any

from app.datasets.row_errors import RowError, shown
from app.datasets.texts import check_text, is_clean

# Searched for with rfind and rsplit: Python finds them from the right in a quarter of the time.
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def is_dialogue(text: str) -> bool:
    """Return whether the text begins with a human turn and has an assistant turn."""
    return text.lstrip().startswith("Human:") and text.rfind(ASSISTANT) >= 0


def is_dialogue_prompt(text: str) -> bool:
    """Return whether the text is a dialogue that ends where the assistant must reply."""
    return text.rstrip().endswith(ASSISTANT) and is_dialogue(text)


def mixed_dialogue(path: str) -> RowError:
    """Return the error for a dialogue in a file of other texts."""
    return RowError(
        "mixed_format",
        f"{path} has Human: and Assistant: turns here, and most texts have none",
        "write the turns as lists of messages in all rows",
        column=path,
    )


def read_dialogue(path: str, text: str) -> list[dict[str, Any]]:
    """Read the turns of a dialogue as messages.

    An empty last assistant turn of a prompt marks the place of the reply and is removed.

    Raises:
        RowError: the text is not such a dialogue, or a turn is empty.
    """
    messages = turns(text)
    if not messages or all(message["role"] == "user" for message in messages):
        raise RowError(
            "not_a_dialogue",
            f"found {shown(text)}, while other rows have Human: and Assistant: turns",
            "begin each text with Human: and each further turn with an empty line and its role",
            column=path,
        )
    if path == "prompt" and not messages[-1]["content"] and messages[-1]["role"] == "assistant":
        del messages[-1]
    for index, message in enumerate(messages):
        if not is_clean(message["content"]):
            check_text(f"{path}, turn {index + 1}", message["content"])
    return messages


def turns(text: str) -> list[dict[str, Any]]:
    """Return the turns as messages, which may be empty; no messages if no human turn is first."""
    text = text.lstrip()
    if not text.startswith("Human:"):
        return []
    messages = []
    for part in text[len("Human:") :].rsplit(HUMAN):
        said, *replies = part.rsplit(ASSISTANT)
        messages.append({"content": said.strip(), "role": "user"})
        messages += [{"content": reply.strip(), "role": "assistant"} for reply in replies]
    return messages
