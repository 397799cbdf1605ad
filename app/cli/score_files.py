"""The files of ``plaudit score``: replies in JSON lines, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from app.cli.exit_codes import CommandError, ExitCode
from app.cli.spec_files import refuse_constant

#: A row, as a group of POST /v1/score.
Group = dict[str, Any]
#: How each line of the output begins; see ``format_row``.
_BEGINNING = b'{"line": '


def read_lines(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are not empty, with their numbers.

    Raises:
        CommandError: a line is not UTF-8.
    """
    for number, line in enumerate(file, 1):
        try:  # the first line may have a byte order mark
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise _bad_line(number, f"is not UTF-8: {error.reason}") from error
        if text.strip():
            yield number, text


def parse_group(number: int, line: str) -> Group:
    """Parse a line as a group: a prompt with its replies."""
    try:
        row = json.loads(line, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _bad_line(number, f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise _bad_line(number, "is not a JSON object")
    prompt = {key: row[key] for key in ("id", "prompt") if row.get(key) is not None}
    match row:
        case {"responses": [_, *_] as responses}:
            return prompt | {"responses": responses}
        case {"chosen": chosen, "rejected": rejected}:
            return prompt | {"responses": [chosen, rejected]}
        case {"response": response}:
            return prompt | {"responses": [response]}
        case {"messages": [_, *_] as messages}:
            return {**prompt, "responses": [messages]}
    raise _bad_line(
        number, "has neither responses, nor chosen and rejected, nor response, nor messages"
    )


def _bad_line(number: int, reason: str) -> CommandError:
    return CommandError(
        f"Line {number} {reason.rstrip('.')}.",
        ExitCode.USAGE,
        "Correct it and repeat the command to resume.",
    )


def last_row(out: Path) -> dict[str, Any] | None:
    """Return the last row that is already scored. Removes an incomplete last line.

    Raises:
        CommandError: the file does not contain scores; it is not changed.
    """
    if not out.is_file():  # also a pipe or a terminal, such as /dev/stdout
        return None
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    rest = data[len(whole) :]
    last = _parse_last(out, whole)
    if rest and not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
        raise _not_scores(out)
    if rest:
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return last


def _parse_last(out: Path, whole: bytes) -> dict[str, Any] | None:
    lines = whole.splitlines()
    if not lines:
        return None
    try:
        last = json.loads(lines[-1])
        line, scores = int(last["line"]), list(map(float, last["scores"]))
        if line < 1:
            raise ValueError("lines are numbered from 1")
        return {**last, "line": line, "scores": scores, "score_spec": str(last["score_spec"])}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _not_scores(out) from error


def _not_scores(out: Path) -> CommandError:
    return CommandError(
        f"{out} exists and does not contain scores.",
        ExitCode.USAGE,
        "Choose another file with --out.",
    )


def format_row(row: dict[str, Any]) -> str:
    """Return a row as a line of JSON."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate in an id
        text = json.dumps(row)
    return f"{text}\n"
