"""No part of a pair is lost in silence: it is stored, or the upload is refused, or it is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.datasets.canonical import DatasetSummary
from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader
from app.datasets.row_errors import InvalidDatasetError, RowProblem
from app.datasets.shapes.sample import MAX_ROWS
from tests.datasets.invariants import check_stored

Rows = list[dict[str, Any]]


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


PLAIN = {"prompt": "p", "chosen": "good", "rejected": "bad"}
CHAT = {
    "prompt": [user("p")],
    "chosen": [assistant("good")],
    "rejected": [assistant("bad")],
}


def read(rows: Rows, options: ReadOptions | None = None) -> tuple[Rows, DatasetSummary]:
    reader = DatasetReader(options=options)
    lines = (json.dumps(row).encode() + b"\n" for row in rows)
    return check_stored(b"".join(reader.read(lines, "jsonl")), reader.summary), reader.summary


def refusal(rows: Rows, options: ReadOptions | None = None) -> RowProblem:
    with pytest.raises(InvalidDatasetError) as caught:
        read(rows, options)
    return caught.value.rows[0]


# --- a column that stored datasets have too -----------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (CHAT | {"chosen": "good", "rejected": "bad"}, "pairs"),
        (PLAIN | {"system": "Be brief."}, "pairs"),
        ({"chosen": "Human: p\n\nAssistant: a", "rejected": "Human: p\n\nAssistant: b"}, "hh_rlhf"),
    ],
)
def test_file_with_line_numbers_is_read_as_without(row: dict[str, Any], shape: str) -> None:
    rows, summary = read([row | {"line": number} for number in (1, 2)])
    assert rows == read([row] * 2)[0]
    assert summary.shape == shape
    assert summary.ignored_columns == ["line"]


def test_common_messages_are_the_prompt_in_files_with_line_numbers() -> None:
    row = {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]}
    assert read([row | {"line": number} for number in (1, 2)])[0] == read([row] * 2)[0]
    later = [CHAT | {"line": number} for number in range(MAX_ROWS)] + [row | {"line": 99}]
    assert read(later)[0][-1]["prompt"] == [{"content": "p", "role": "user"}]


def test_text_in_a_column_called_line_is_not_lost() -> None:
    found = refusal([PLAIN | {"line": f"To be {number}"} for number in (1, 2)])
    assert (found.code, found.column) == ("unused_column", "line")


# --- keys of messages, parts and tool calls -----------------------------------------------------


def calling(call: dict[str, Any], **more: Any) -> Rows:
    """Return two rows in which the assistant calls a tool."""
    turns = [user("p"), assistant("", tool_calls=[call], **more), {"role": "tool", "content": "4"}]
    return [CHAT | {"prompt": turns}] * 2


def asking(message: dict[str, Any]) -> dict[str, Any]:
    return CHAT | {"prompt": [message]}


@pytest.mark.parametrize(
    "message",
    [
        user("kept", value="lost"),
        user("lost", **{"from": "human", "value": "kept"}),
        {"from": "human", "value": "kept", "content": "lost"},
        user("kept", value=["lost"]),
    ],
)
def test_message_with_two_texts_is_refused(message: dict[str, Any]) -> None:
    found = refusal([asking(message)])
    assert (found.code, found.column) == ("two_values", "prompt[0]")


@pytest.mark.parametrize(
    "message",
    [
        user("kept", value="kept"),
        user("kept", value=None),
        user("kept", **{"from": "human", "value": "kept"}),
        user("kept", **{"from": "human"}),
        {"from": "human", "value": "kept", "content": None},
    ],
)
def test_text_that_is_given_twice_or_null_is_read_once(message: dict[str, Any]) -> None:
    assert read([asking(message)])[0][0]["prompt"] == [{"content": "kept", "role": "user"}]


def test_two_names_of_the_role_must_agree() -> None:
    rows = [asking(user(f"p{number}", **{"from": f"Ann {number}"})) for number in (1, 2)]
    assert refusal(rows).column == "prompt[0].from"
    assert refusal([asking(user("p", **{"from": ["x"]}))] * 2 + rows).column == "prompt[0].from"


def test_text_beside_a_call_of_sharegpt_is_the_content() -> None:
    turn = {"from": "function_call", "value": '{"name": "f", "arguments": {}}', "content": "Wait."}
    rows, _ = read([CHAT | {"prompt": [user("p"), turn, {"role": "tool", "content": "4"}]}])
    assert rows[0]["prompt"][1]["content"] == "Wait."
    assert rows[0]["prompt"][1]["tool_calls"][0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "f", "parameters": {"a": 1}}},
        {"name": "f", "parameters": '{"a": 1}'},
        {"name": "f", "arguments": {"a": 1}, "parameters": None},
    ],
)
def test_arguments_may_be_called_parameters(call: dict[str, Any]) -> None:
    rows, _ = read(calling(call))
    assert rows[0]["prompt"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize("arguments", [[1], 5, True])
def test_arguments_of_another_type_are_refused(arguments: Any) -> None:
    found = refusal(calling({"function": {"name": "f", "arguments": arguments}}))
    assert found.code == "invalid_tools"
    assert found.column == "prompt[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ({"function": {"name": "f", "thought": "lost"}}, "function.thought"),
        ({"function": {"name": "f"}, "output": "lost"}, "output"),
        ({"name": "f", "arguments": {}, "input": {"a": "lost"}}, "input"),
    ],
)
def test_other_text_in_a_tool_call_is_refused_or_ignored_by_name(
    call: dict[str, Any], name: str
) -> None:
    found = refusal(calling(call))
    assert (found.code, found.column) == ("unused_column", f"prompt[1].tool_calls[0].{name}")
    asked = f"messages[].tool_calls[].{name}"
    assert f"prompt[].tool_calls[].{name}" in found.hint
    _, summary = read(calling(call), ReadOptions(ignore_columns=frozenset({asked})))
    assert summary.ignored_columns == [f"prompt[].tool_calls[].{name}"]
    assert [warning.code for warning in summary.warnings] == ["columns_ignored"]


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"type": "text", "text": "a", "thinking": "lost"}, "unused_column"),
        ({"type": "text", "text": "a", "context": ["lost"]}, "unused_column"),
        ({"type": "text", "text": "a", "image_url": {"url": "lost"}}, "image_parts"),
        ({"text": "a", "image": "lost"}, "image_parts"),
    ],
)
def test_other_content_of_a_text_part_is_refused(part: dict[str, Any], code: str) -> None:
    assert refusal([asking(user([part]))]).code == code


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a", "image_url": None},
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
    ],
)
def test_settings_of_a_text_part_are_ignored(part: dict[str, Any]) -> None:
    rows, summary = read([asking(user([part]))])
    assert rows[0]["prompt"] == [{"content": "a", "role": "user"}]
    assert summary.warnings == []


def test_signatures_of_thinking_parts_are_ignored() -> None:
    parts = [
        [{"type": "thinking", "thinking": "t", "signature": sign}, {"type": "text", "text": "a"}]
        for sign in ("x1", "x2")
    ]
    rows, _ = read([CHAT | {"chosen": [assistant(each)]} for each in parts])
    assert rows[1]["chosen"][0]["reasoning_content"] == "t"


def test_keys_in_lists_of_conversations_have_one_name() -> None:
    reply = [assistant("good", mood="glad")]
    row = {"prompt": [user("p")], "chosen": [reply], "rejected": [[assistant("bad")]] * 2}
    _, summary = read([row] * 2)
    assert summary.ignored_columns == ["chosen[][].mood"]


# --- two columns for one part -------------------------------------------------------------------

SIGNED = {"prompt": "p", "one": "good", "two": "bad", "vote": -2}


def test_list_of_responses_beside_numbered_ones_is_refused() -> None:
    row = {"prompt": "p", "response_1": "a", "response_2": "b", "scores": [1, 2]}
    found = refusal([row] * MAX_ROWS + [row | {"responses": ["c", "d"]}])
    assert (found.code, found.column, found.line) == ("two_values", "responses", MAX_ROWS + 1)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": ["good"], "rejected": ["bad"]},
        {"prompt": "p", "answers": [{"text": "good", "rank": 1}, {"text": "bad", "rank": 2}]},
        {"context": "p", "response1": "a", "response2": "b", "overall_preference": 1},
    ],
)
def test_margin_that_is_not_stored_is_named(row: dict[str, Any]) -> None:
    rows, summary = read([row | {"margin": 0.5}] * 2)
    assert rows == read([row] * 2)[0]
    assert summary.ignored_columns == ["margin"]


def test_scores_are_read_beside_mapped_answers() -> None:
    row = {"prompt": "p", "candidates": ["bad", "good"], "scores": [0.1, 0.9]}
    rows, _ = read([row], ReadOptions(columns={"answers": "candidates"}))
    assert [each["reply"] for each in rows[0]["replies"]] == ["good", "bad"]


def test_mapped_scores_need_answers() -> None:
    options = ReadOptions(columns={"scores": "rewards"})
    rows, _ = read([{"prompt": "p", "answers": ["bad", "good"], "rewards": [0.1, 0.9]}], options)
    assert [each["reply"] for each in rows[0]["replies"]] == ["good", "bad"]
    assert refusal([PLAIN | {"rewards": [0.1, 0.9]}], options).code == "missing_column"


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (SIGNED, {"response_a": "one", "response_b": "two", "label": "vote", "margin": "size"}),
        ({"prompt": "p", "best": ["good", "bad"]}, {"answers": "best", "margin": "size"}),
    ],
)
def test_mapped_margin_that_cannot_be_stored_is_refused(
    row: dict[str, Any], columns: dict[str, str]
) -> None:
    labels = {"b": "positive"} if "label" in columns else {}
    found = refusal([row | {"size": 0.5}], ReadOptions(columns=columns, labels=labels))
    assert found.code == "invalid_mapping"
    assert "columns[margin]" in found.message


@pytest.mark.parametrize("columns", [{}, {"prompt": "prompt"}])
def test_labels_without_a_label_are_refused(columns: dict[str, str]) -> None:
    options = ReadOptions(columns=columns, labels={"a": "2", "b": "1"})
    assert refusal([PLAIN] * 2, options).code == "invalid_mapping"


# --- a prompt that is given twice ---------------------------------------------------------------

SYSTEM = {"role": "system", "content": "Be brief."}


def whole(*before: dict[str, Any]) -> dict[str, Any]:
    return {
        "chosen": [*before, assistant("good")],
        "rejected": [*before, assistant("bad")],
    }


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, user("p")]} | whole(SYSTEM, user("p")),
        {"prompt": [SYSTEM, user("p")]} | whole(user("p")),
        {"prompt": [user("p")]} | whole(SYSTEM, user("p")),
        {"prompt": "p"} | whole(SYSTEM, user("p")),
        {"prompt": [user("p")], "system": "Be brief."} | whole(SYSTEM, user("p")),
        {"prompt": [user("p")], "system": "Be brief."} | whole(user("p")),
    ],
)
def test_prompt_in_the_replies_is_read_once_with_its_system_message(row: dict[str, Any]) -> None:
    rows, _ = read([row] * 2)
    assert [[m["content"] for m in rows[0][part]] for part in ("prompt", "chosen", "rejected")] == [
        ["Be brief.", "p"],
        ["good"],
        ["bad"],
    ]


def test_prompt_that_only_one_reply_repeats_is_refused() -> None:
    row = {"prompt": [user("p")]} | whole(SYSTEM, user("p"))
    for other in ([user("p"), assistant("bad")], [user("Be brief."), assistant("bad")]):
        found = refusal([row | {"rejected": other}])
        assert (found.code, found.column) == ("prompt_repeated", "chosen")


# --- later rows in another form -----------------------------------------------------------------

DIALOGUES = {
    "chosen": "\n\nHuman: p\n\nAssistant: good",
    "rejected": "\n\nHuman: p\n\nAssistant: bad",
}


@pytest.mark.parametrize(
    ("first", "later", "column"),
    [
        (PLAIN, PLAIN | {"prompt": "\n\nHuman: p\n\nAssistant:"}, "prompt"),
        (PLAIN, PLAIN | {"prompt": "Human: p\n\nAssistant: "}, "prompt"),
        (PLAIN, PLAIN | DIALOGUES, "chosen"),
        ({"chosen": "good", "rejected": "bad"}, DIALOGUES, "chosen"),
        (CHAT | {"chosen": "good", "rejected": "bad"}, CHAT | DIALOGUES, "chosen"),
    ],
)
def test_dialogue_in_a_file_of_other_texts_is_refused(
    first: dict[str, Any], later: dict[str, Any], column: str
) -> None:
    found = refusal([first] * MAX_ROWS + [later])
    assert (found.code, found.column, found.line) == ("mixed_format", column, MAX_ROWS + 1)


def test_text_may_quote_a_dialogue() -> None:
    said = "Human: p\n\nAssistant: q"
    rows = [PLAIN] * 3 + [PLAIN | {"prompt": said}, PLAIN | {"rejected": said}]
    assert read(rows)[0][3]["prompt"] == said


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (json.dumps(assistant("a")), "encoded_messages"),
        (json.dumps({"content": "a", "role": "assistant"}), "encoded_messages"),
        (str(assistant("a")), "python_repr"),
        (str({"content": "a", "role": "assistant"}), "python_repr"),
    ],
)
def test_message_inside_a_string_is_refused(text: str, code: str) -> None:
    assert refusal([PLAIN] * MAX_ROWS + [PLAIN | {"chosen": text}]).code == code


@pytest.mark.parametrize(
    "text", ['{"role": "admin", "content": "a"}', '{"content": 1}', "{'a': 1}"]
)
def test_reply_may_be_another_object(text: str) -> None:
    assert read([PLAIN | {"chosen": text}])[0][0]["chosen"] == text


def test_message_in_a_cell_of_csv_is_a_message() -> None:
    reader = DatasetReader()
    cells = [json.dumps(assistant(text)).replace('"', '""') for text in ("good", "bad")]
    data = f'prompt,chosen,rejected\np,"{cells[0]}","{cells[1]}"\n'.encode()
    rows = check_stored(b"".join(reader.read([data], "csv")), reader.summary)
    assert rows[0]["chosen"] == [{"content": "good", "role": "assistant"}]
