"""Rows of the plain shapes: the stored form of valid rows, and the errors of invalid ones."""

import json
from typing import Any

import pytest

from app.datasets.canonical import MAX_SLICES, DatasetSummary
from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader
from app.datasets.row_errors import InvalidDatasetError, RowProblem

USER = {"role": "user", "content": "Which way?"}
GOOD = {"role": "assistant", "content": "Left, then right."}
BAD = {"role": "assistant", "content": "No idea."}
TEXT = {"chosen": "good", "rejected": "bad"}
CHAT: dict[str, Any] = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def chosen(*messages: Any) -> dict[str, Any]:
    return {"chosen": list(messages), "rejected": [BAD]}


def stored(
    *rows: dict[str, Any], options: ReadOptions | None = None
) -> tuple[list[dict[str, Any]], DatasetSummary]:
    """Return the stored rows without their lines, and the summary."""
    reader = DatasetReader(options=options)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    lines = b"".join(reader.read([data], "jsonl")).split(b"\n")[:-1]
    found = [json.loads(line) for line in lines]
    for row in found:
        del row["line"]
    return found, reader.summary


def problem(*rows: dict[str, Any], options: ReadOptions | None = None) -> RowProblem:
    with pytest.raises(InvalidDatasetError) as caught:
        stored(*rows, options=options)
    return caught.value.rows[0]


@pytest.mark.parametrize(
    "row",
    [
        TEXT,
        TEXT | {"prompt": "Hi"},
        TEXT | {"margin": 0.5, "slice": "maths"},
        CHAT,
        CHAT | {"prompt": [{"role": "system", "content": "Be brief."}, USER, GOOD, USER]},
        CHAT | {"prompt": [{"role": "developer", "content": "Be brief."}, USER]},
        CHAT | {"prompt": [{"role": "system", "content": ""}, USER]},
        CHAT | {"prompt": [USER, GOOD, {"role": "tool", "content": ""}]},
        CHAT | {"chosen": [GOOD | {"reasoning_content": "Hm."}]},
        CHAT | {"tools": [ADD]},
        CHAT | {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_good_row_is_kept_as_it_is(row: dict[str, Any]) -> None:
    assert stored(row)[0] == [row]


def test_fields_without_meaning_are_dropped_and_listed() -> None:
    row = {
        "prompt": [USER | {"weight": 1}],
        "chosen": [GOOD | {"tool_calls": None}],
        "rejected": [BAD],
        "completion": None,
        "source_model": "x",
        "bad\x00name": 1,
        "margin": None,
        "tools": [],
    }
    rows, summary = stored(row)
    assert rows == [CHAT]
    assert summary.ignored_columns == [
        "bad\\u0000name", "completion", "prompt[].weight", "source_model",
    ]  # fmt: skip
    assert summary.warnings == []


def test_stored_line_is_sorted_utf8_and_holds_its_line_number() -> None:
    row = {"slice": "é", "rejected": "b", "prompt": "p", "margin": 2, "chosen": "a\u2028\n😀"}
    data = b"\n" * 6 + json.dumps(row).encode()
    assert (
        b"".join(DatasetReader().read([data], "jsonl"))
        == (
            '{"chosen":"a\u2028\\n😀","line":7,"margin":2.0,"prompt":"p","rejected":"b","slice":"é"}\n'
        ).encode()
    )


def test_stored_messages_have_sorted_keys() -> None:
    data = json.dumps(CHAT).encode()
    line = b"".join(DatasetReader().read([data], "jsonl"))
    assert b'"prompt":[{"content":"Which way?","role":"user"}]' in line


# --- messages -----------------------------------------------------------------------------------


def test_arguments_of_tool_calls_are_objects_and_text_that_is_none_stays() -> None:
    broken = CALL | {"function": {"name": "add", "arguments": "{"}}
    row = CHAT | {"chosen": [{"role": "assistant", "content": None, "tool_calls": [CALL, broken]}]}
    (kept,), _ = stored(row)
    calls = kept["chosen"][0]["tool_calls"]
    assert kept["chosen"][0]["content"] is None
    assert [call["function"]["arguments"] for call in calls] == [{"a": 1}, "{"]


def test_old_function_call_becomes_a_tool_call() -> None:
    call = {"name": "add", "arguments": "{}"}
    row = CHAT | {"chosen": [{"role": "assistant", "content": "", "function_call": call}]}
    (kept,), _ = stored(row)
    assert kept["chosen"][0]["tool_calls"][0]["function"] == {"name": "add", "arguments": {}}


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_one_name(key: str) -> None:
    (kept,), _ = stored(CHAT | {"chosen": [GOOD | {key: "Hm."}]})
    assert kept["chosen"] == [GOOD | {"reasoning_content": "Hm."}]


def test_text_parts_are_joined_and_thinking_parts_are_reasoning() -> None:
    parts = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "Left,"},
        {"type": "output_text", "text": "then right."},
    ]
    (kept,), _ = stored(CHAT | {"chosen": [{"role": "assistant", "content": parts}]})
    assert kept["chosen"] == [
        {"content": "Left,\nthen right.", "reasoning_content": "Hm.", "role": "assistant"}
    ]


def test_name_of_a_tool_is_kept_and_that_of_a_user_is_warned_of() -> None:
    tool = {"role": "tool", "content": "4", "name": "add", "tool_call_id": "1"}
    (kept,), summary = stored(CHAT | {"prompt": [USER | {"name": "Ann"}, tool]})
    assert kept["prompt"] == [USER, tool]
    assert summary.ignored_columns == ["prompt[].name"]
    assert [warning.code for warning in summary.warnings] == ["columns_ignored"]


def test_tools_may_be_json_text() -> None:
    (kept,), _ = stored(CHAT | {"tools": json.dumps([ADD])})
    assert kept["tools"] == [ADD]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "code", "column", "says"),
    [
        ({}, "missing_column", "chosen", "no columns"),
        ({"rejected": "b", "title": "a"}, "missing_column", "chosen", '"rejected", "title"'),
        ({"chosen": "a", "rejected": None}, "missing_column", "rejected", "is null"),
        (TEXT | {"chosen": 3}, "wrong_type", "chosen", "a number"),
        (TEXT | {"chosen": True}, "wrong_type", "chosen", "true or false"),
        (TEXT | {"prompt": 1.5}, "wrong_type", "prompt", "a number"),
        (chosen(GOOD, "a"), "wrong_type", "chosen[1]", "text, not a message"),
        (chosen(GOOD, [GOOD]), "wrong_type", "chosen[1]", "a list, not a message"),
        (chosen(), "empty_conversation", "chosen", "empty list"),
        (CHAT | {"prompt": []}, "empty_conversation", "prompt", "empty list"),
        (chosen({"from": "bard", "value": "a"}), "unknown_role", "chosen[0].from", '"bard"'),
        (chosen(USER, {"role": "assistant"}), "missing_content", "chosen[1].content", "null"),
        (chosen(GOOD | {"content": None}), "missing_content", "chosen[0].content", "null"),
        (
            chosen(GOOD | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            "image_parts",
            "chosen[0].content[0]",
            "images are not supported",
        ),
        (
            chosen(GOOD | {"content": [{"type": "input_audio"}]}),
            "content_parts",
            "chosen[0].content[0]",
            '"input_audio"',
        ),
        (chosen(GOOD | {"content": [1]}), "content_parts", "chosen[0].content[0]", "a number"),
        (chosen(GOOD | {"content": 5}), "wrong_type", "chosen[0].content", "a number"),
        (chosen(GOOD | {"role": "narrator"}), "unknown_role", "chosen[0].role", '"narrator"'),
        (chosen(GOOD | {"role": ["user"]}), "unknown_role", "chosen[0].role", "a list"),
        (chosen({"content": "a"}), "unknown_role", "chosen[0].role", "null"),
        (chosen(GOOD | {"tool_calls": [{}]}), "invalid_tools", "chosen[0].tool_calls[0]", "name"),
        (chosen(GOOD | {"tool_calls": "f"}), "wrong_type", "chosen[0].tool_calls", "text"),
        (
            chosen(GOOD | {"reasoning": "a", "thinking": "b"}),
            "two_values",
            "chosen[0]",
            "two different reasoning texts",
        ),
        (chosen(GOOD | {"reasoning": 1}), "wrong_type", "chosen[0].reasoning", "a number"),
        (chosen(GOOD | {"images": ["x"]}), "image_parts", "chosen[].images", "found an image"),
        (chosen(GOOD | {"context": "x"}), "unused_column", "chosen[0].context", "no chat template"),
        (chosen(GOOD, USER), "last_not_assistant", "chosen[1].role", "by user"),
        (CHAT | {"rejected": [USER]}, "last_not_assistant", "rejected[0].role", "by user"),
        (CHAT | {"chosen": [USER, GOOD]}, "prompt_repeated", "chosen", "begins with the prompt"),
        (TEXT | {"chosen": ""}, "empty_text", "chosen", "empty"),
        (TEXT | {"rejected": " \n"}, "empty_text", "rejected", "empty"),
        (TEXT | {"prompt": ""}, "empty_text", "prompt", "empty"),
        (chosen(GOOD | {"content": ""}), "empty_text", "chosen[0].content", "empty"),
        ({"chosen": "a", "rejected": "a"}, "identical_pair", "rejected", "same as chosen"),
        (chosen(BAD | {"weight": 1}), "identical_pair", "rejected", "same as chosen"),
        (TEXT | {"rejected": [BAD]}, "mixed_format", "rejected", "is conversational here"),
        (TEXT | {"chosen": str([GOOD])}, "python_repr", "chosen", "as Python prints it"),
        (TEXT | {"chosen": "a\0b"}, "nul_character", "chosen", "position 2"),
        (TEXT | {"chosen": "a\ud800"}, "lone_surrogate", "chosen", "character 2"),
        (
            {"chosen": [USER, GOOD | {"content": "\udc00"}], "rejected": [USER, BAD]},
            "lone_surrogate",
            "chosen[0].content",
            "character 1",
        ),
        (TEXT | {"margin": True}, "invalid_margin", "margin", "True"),
        (TEXT | {"margin": "1"}, "invalid_margin", "margin", '"1"'),
        (TEXT | {"margin": [0.5]}, "invalid_margin", "margin", "a list"),
        (TEXT | {"margin": 10**400}, "invalid_margin", "margin", "1000"),
        (TEXT | {"slice": 3}, "invalid_slice", "slice", "a number"),
        (TEXT | {"slice": "a\nb"}, "invalid_slice", "slice", '"a\\nb"'),
        (TEXT | {"slice": "a" * 65}, "invalid_slice", "slice", "…"),
        (CHAT | {"tools": [{"name": 1}]}, "invalid_tools", "tools", "not a list"),
        (CHAT | {"tools": "["}, "invalid_json", "tools", "character"),
        (
            CHAT | {"chat_template_kwargs": {"chat_template": "x"}},
            "invalid_template_variables",
            "chat_template_kwargs",
            '"chat_template" is not a variable',
        ),
        (
            CHAT | {"chat_template_kwargs": {"documents_": []}},
            "invalid_template_variables",
            "chat_template_kwargs",
            "is a list",
        ),
        (
            {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            "prompt_mismatch",
            "chosen",
            "no user message is the prompt",
        ),
        (
            CHAT | {"prompt": [{"role": "system", "content": "a"}, USER], "system": "b"},
            "two_values",
            "system",
            "differ",
        ),
        (TEXT | {"system": "Be brief."}, "missing_column", "prompt", "no column is the prompt"),
        (TEXT | {"prompt": "p", "context": "c"}, "unused_column", "context", '"context"'),
        (TEXT | {"prompt": "p", "images": ["x"]}, "image_parts", "images", "found an image"),
    ],
)
def test_bad_row_is_named_by_field_and_reason(
    row: dict[str, Any], code: str, column: str, says: str
) -> None:
    found = problem(row)
    assert (found.code, found.column, found.line) == (code, column, 1)
    assert says in found.message
    assert found.hint


@pytest.mark.parametrize(
    ("first", "second", "code", "says"),
    [
        (TEXT, {"chosen": [GOOD], "rejected": [BAD]}, "mixed_format", "is conversational here"),
        (CHAT, CHAT | {"prompt": None}, "mixed_prompt", "has no prompt"),
        (TEXT, TEXT | {"margin": 0.0}, "mixed_margin", "has no margin"),
        (TEXT | {"margin": 1}, TEXT | {"margin": None}, "mixed_margin", "has no margin"),
    ],
)
def test_rows_of_one_upload_are_alike(
    first: dict[str, Any], second: dict[str, Any], code: str, says: str
) -> None:
    found = problem(first, second)
    assert found.code == code
    assert says in found.message


@pytest.mark.parametrize(
    ("first", "late", "code", "column"),
    [
        (TEXT, TEXT | {"prompt": "p"}, "mixed_prompt", "prompt"),
        (TEXT, TEXT | {"margin": 0.0}, "mixed_margin", "margin"),
        (TEXT | {"prompt": "p"}, TEXT | {"prompt": "p", "system": "s"}, "mixed_format", "system"),
        (TEXT | {"prompt": "p"}, TEXT | {"prompt": "p", "tools": [ADD]}, "mixed_format", "tools"),
        (TEXT, {"chosen": [GOOD], "rejected": [BAD]}, "mixed_format", "chosen"),
        (TEXT | {"prompt": "p"}, TEXT | {"prompt": "p", "input": "x"}, "unused_column", "input"),
    ],
)
def test_row_far_below_the_first_ones_is_held_to_them(
    first: dict[str, Any], late: dict[str, Any], code: str, column: str
) -> None:
    found = problem(*[first] * 200, late)
    assert (found.code, found.column, found.line) == (code, column, 201)


def test_form_is_that_of_the_rows_with_both_replies() -> None:
    good, bad = TEXT | {"prompt": "p"}, {"chosen": "a"}
    reader = DatasetReader()
    data = "".join(json.dumps(row) + "\n" for row in [good, good, *[bad] * 12]).encode()
    with pytest.raises(InvalidDatasetError) as caught:
        list(reader.read([data], "jsonl"))
    assert [row.line for row in caught.value.rows] == list(range(3, 13))
    assert {row.code for row in caught.value.rows} == {"missing_column"}


def test_reply_that_begins_like_a_short_prompt_is_kept() -> None:
    row = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi."}
    other = {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}
    assert stored(row, other)[0] == [row, other]


def test_reply_that_begins_with_a_long_prompt_is_refused_if_others_do_not() -> None:
    long = "Which of the two ways is shorter?"
    row = {"prompt": long, "chosen": long + " Left.", "rejected": long + " Right."}
    found = problem({"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}, row)
    assert (found.code, found.line) == ("prompt_repeated", 2)


def test_text_that_only_looks_a_little_like_a_list_is_kept() -> None:
    row = {"chosen": "[1, 2]", "rejected": '[{"a": 1}]'}
    assert stored(row)[0] == [row]


def test_negative_zero_margin_is_zero() -> None:
    (kept,), _ = stored(TEXT | {"margin": -0.0})
    assert str(kept["margin"]) == "0.0"


def test_slices_are_counted_up_to_a_limit() -> None:
    rows = [TEXT | {"slice": f"s{number}"} for number in range(MAX_SLICES)]
    _, summary = stored(*rows, TEXT | {"slice": "s0"}, TEXT)
    assert summary.pair_count == MAX_SLICES + 2
    assert summary.slices["s0"] == 2
    assert sum(summary.slices.values()) == MAX_SLICES + 1
    found = problem(*rows, TEXT | {"slice": "one more"})
    assert (found.code, found.line) == ("too_many_slices", MAX_SLICES + 1)
    assert "label number 101" in found.message


# --- fields that are not part of a pair ---------------------------------------------------------


def test_unknown_text_that_differs_is_refused_with_all_its_columns() -> None:
    rows = [TEXT | {"hint": f"h{n}", "note": f"n{n}", "same": "x", "id": n} for n in range(3)]
    found = problem(*rows)
    assert (found.code, found.line) == ("unused_column", 2)
    assert '"hint", "note"' in found.message
    assert "ignore_columns=hint,note" in found.hint


def test_unknown_text_that_is_always_the_same_is_warned_of() -> None:
    _, summary = stored(*[TEXT | {"note": "x"}] * 3)
    assert summary.ignored_columns == ["note"]
    assert [w.code for w in summary.warnings] == ["columns_ignored"]
    assert "note" in summary.warnings[0].message


def test_column_that_only_repeats_the_pair_is_left_out_quietly() -> None:
    rows = [
        {"prompt": f"p{n}", "question": f"p{n}", "response": f"c{n} ", "chosen": f"c{n}",
         "rejected": "r"}
        for n in range(3)
    ]  # fmt: skip
    found, summary = stored(*rows)
    assert found[1] == {"prompt": "p1", "chosen": "c1", "rejected": "r"}
    assert summary.warnings == []


def test_columns_are_ignored_on_request_with_a_warning() -> None:
    rows = [TEXT | {"prompt": "p", "context": f"c{n}"} for n in range(3)]
    found, summary = stored(*rows, options=ReadOptions(ignore_columns=frozenset({"context"})))
    assert found == [TEXT | {"prompt": "p"}] * 3
    assert summary.ignored_columns == ["context"]
    assert [w.code for w in summary.warnings] == ["columns_ignored"]


@pytest.mark.parametrize("name", ["name", "messages[].name", "prompt[].name"])
def test_keys_of_messages_are_ignored_on_request(name: str) -> None:
    rows = [CHAT | {"prompt": [USER | {"name": f"n{n}"}]} for n in range(3)]
    assert problem(*rows).code == "unused_column"
    found, _ = stored(*rows, options=ReadOptions(ignore_columns=frozenset({name})))
    assert found == [CHAT] * 3
