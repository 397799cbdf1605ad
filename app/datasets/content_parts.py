"""Message content given as a list of parts: keep text parts and reject others by type."""

from __future__ import annotations

from typing import Any

from app.datasets.row_errors import RowError, image_error, kind_of, shown
from app.datasets.texts import check_characters
from app.datasets.unused import UnusedFields

#: Types of text parts, and the key that holds the text.
_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
_THINKING_PARTS = {"thinking": "thinking", "reasoning": "text"}
#: Keys that are no text of the model: they encrypt or sign the thinking.
_SIGNATURES = frozenset({"signature", "encrypted_content"})
_IMAGE_KEYS = ("image", "image_url")
_IMAGE_PARTS = ("image", "image_url", "input_image", "image_file")


def read_parts(path: str, parts: list[Any], unused: UnusedFields) -> tuple[str, str | None]:
    """Return the text parts joined with newlines, and the thinking parts likewise (or None).

    Raises:
        RowError: a part is not text; the code is ``image_parts`` for images.
        FileError: ignoring another key of a part would lose text.
    """
    texts: list[str] = []
    thinking: list[str] = []
    for index, part in enumerate(parts):
        column = f"{path}[{index}]"
        if isinstance(part, str):
            texts.append(_text(column, part))
            continue
        if not isinstance(part, dict):
            raise _refusal(column, kind_of(part))
        kind = part.get("type")
        if kind is None and isinstance(part.get("text"), str):
            kind = "text"
        if not isinstance(kind, str | None):
            raise _refusal(column, f"a part whose type is {kind_of(kind)}")
        if any(part.get(key) is not None for key in _IMAGE_KEYS):
            raise image_error(column)
        if kind in _TEXT_PARTS:
            key = _TEXT_PARTS[kind]
            texts.append(_text(f"{column}.{key}", part.get(key)))
            unused.check_keys(column, part, {"type", key})
        elif kind in _THINKING_PARTS:
            key = _THINKING_PARTS[kind]
            thinking.append(_text(f"{column}.{key}", part.get(key)))
            unused.check_keys(column, part, {"type", key} | _SIGNATURES)
        elif kind in _IMAGE_PARTS:
            raise image_error(column)
        else:
            raise _refusal(column, f"a part of the type {shown(kind)}")
    return "\n".join(texts), "\n".join(thinking) or None


def _refusal(column: str, found: str) -> RowError:
    return RowError(
        "content_parts",
        f"found {found}; only text parts are supported",
        'write {"type": "text", "text": "…"}, or give content as text',
        column=column,
    )


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError("wrong_type", f"found {kind_of(value)}", "give text", column=path)
    check_characters(path, value)
    return value
