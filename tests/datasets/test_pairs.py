"""What makes a row a preference pair, and what is said of a row that is none."""

import json
from typing import Any

import pytest

from app.datasets.pairs import MAX_SLICES, PairChecker, normalise
from app.datasets.row_errors import RowError

USER = {"role": "user", "content": "Which way?"}
GOOD = {"role": "assistant", "content": "Left, then right."}
BAD = {"role": "assistant", "content": "No idea."}
TEXT = {"chosen": "good", "rejected": "bad"}
CHAT: dict[str, Any] = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


def chosen(*messages: Any) -> dict[str, Any]:
    return {"chosen": list(messages), "rejected": [BAD]}


@pytest.mark.parametrize(
    "row",
    [
        TEXT,
        TEXT | {"prompt": "Hi"},
        TEXT | {"margin": 0.5, "slice": "maths"},
        CHAT,
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        CHAT | {"prompt": [{"role": "system", "content": "Be brief."}, USER, GOOD, USER]},
    ],
)
def test_good_row_is_kept_as_it_is(row: dict[str, Any]) -> None:
    assert normalise(row) == row


def test_unknown_columns_and_message_keys_are_dropped_and_reported() -> None:
    checker = PairChecker()
    row = {
        "prompt": [USER | {"name": "Ann"}],
        "chosen": [GOOD | {"tool_calls": None}],
        "rejected": [BAD],
        "messages": [USER],
        "completion": "x",
        "bad\x00name": 1,
        "margin": None,
        "tools": [],
    }
    kept = json.loads(checker.canonical_line(1, row))
    assert kept == CHAT | {"line": 1}
    assert checker.summary().ignored_columns == [
        "bad\\u0000name",
        "chosen[].tool_calls",
        "completion",
        "messages",
        "prompt[].name",
        "tools",
    ]


def test_canonical_line_is_sorted_utf8_and_holds_its_line_number() -> None:
    row = {"slice": "é", "rejected": "b", "prompt": "p", "margin": 2, "chosen": "a\u2028\n😀"}
    line = PairChecker().canonical_line(7, row)
    assert (
        line
        == (
            '{"chosen":"a\u2028\\n😀","line":7,"margin":2.0,"prompt":"p","rejected":"b","slice":"é"}\n'
        ).encode()
    )


def test_canonical_messages_have_sorted_keys() -> None:
    line = PairChecker().canonical_line(1, CHAT)
    assert b'"prompt":[{"content":"Which way?","role":"user"}]' in line


@pytest.mark.parametrize(
    ("row", "code", "column", "says"),
    [
        ({}, "missing_column", "chosen", "no columns"),
        (
            {"rejected": "b", "answer": "a"},
            "missing_column",
            "chosen",
            'missing (the row has: "rejected", "answer")',
        ),
        ({"chosen": "a", "rejected": None}, "missing_column", "rejected", "is null"),
        (TEXT | {"chosen": 3}, "wrong_type", "chosen", "a number"),
        (TEXT | {"chosen": True}, "wrong_type", "chosen", "true or false"),
        (TEXT | {"rejected": GOOD}, "wrong_type", "rejected", "an object"),
        (TEXT | {"prompt": 1.5}, "wrong_type", "prompt", "a number"),
        (chosen("a"), "wrong_type", "chosen[0]", "text, not a message"),
        (chosen([GOOD]), "wrong_type", "chosen[0]", "a list, not a message"),
        (chosen(), "empty_conversation", "chosen", "empty list"),
        (CHAT | {"prompt": []}, "empty_conversation", "prompt", "empty list"),
        (
            chosen({"from": "gpt", "value": "a"}),
            "sharegpt_keys",
            "chosen[0]",
            "from/value",
        ),
        (chosen(USER, {"role": "assistant"}), "missing_content", "chosen[1].content", "null"),
        (
            chosen({"role": "assistant", "content": None}),
            "missing_content",
            "chosen[0].content",
            "null",
        ),
        (
            chosen({"role": "assistant", "content": [{"type": "text", "text": "a"}]}),
            "content_parts",
            "chosen[0].content",
            "a list",
        ),
        (
            chosen({"role": "assistant", "content": 5}),
            "wrong_type",
            "chosen[0].content",
            "a number",
        ),
        (chosen(GOOD | {"role": "gpt"}), "unknown_role", "chosen[0].role", '"gpt"'),
        (chosen(GOOD | {"role": "tool"}), "unknown_role", "chosen[0].role", '"tool"'),
        (chosen(GOOD | {"role": ["user"]}), "unknown_role", "chosen[0].role", "a list"),
        (chosen({"content": "a"}), "unknown_role", "chosen[0].role", "null"),
        (chosen(GOOD | {"tool_calls": [{}]}), "tool_calls", "chosen[0].tool_calls", "not supp"),
        (chosen(GOOD, USER), "last_not_assistant", "chosen[1].role", "by user"),
        (CHAT | {"rejected": [USER]}, "last_not_assistant", "rejected[0].role", "by user"),
        (
            CHAT | {"chosen": [USER, GOOD]},
            "prompt_repeated",
            "chosen",
            "begins with the prompt",
        ),
        (
            {"prompt": "Q: " + "x" * 30, "chosen": "Q: " + "x" * 30 + "a", "rejected": "b"}
            | {"rejected": "Q: " + "x" * 30 + "b"},
            "prompt_repeated",
            "chosen",
            "begins with the prompt",
        ),
        (TEXT | {"chosen": ""}, "empty_text", "chosen", "empty"),
        (TEXT | {"rejected": " \n"}, "empty_text", "rejected", "empty"),
        (TEXT | {"prompt": ""}, "empty_text", "prompt", "empty"),
        (chosen(GOOD | {"content": ""}), "empty_text", "chosen[0].content", "empty"),
        ({"chosen": "a", "rejected": "a"}, "identical_pair", "rejected", "same as chosen"),
        (chosen(BAD | {"weight": 1}), "identical_pair", "rejected", "same as chosen"),
        (TEXT | {"rejected": [BAD]}, "mixed_format", "rejected", "a list, chosen is text"),
        (CHAT | {"prompt": "Hi"}, "mixed_format", "prompt", "text, chosen is a list"),
        (
            TEXT | {"chosen": json.dumps([GOOD])},
            "encoded_messages",
            "chosen",
            "inside a string",
        ),
        (TEXT | {"chosen": str([GOOD])}, "python_repr", "chosen", "Python's print"),
        (TEXT | {"chosen": "a\0b"}, "nul_character", "chosen", "position 2"),
        (TEXT | {"chosen": "a\ud800"}, "lone_surrogate", "chosen", "character 2"),
        (
            CHAT | {"chosen": [USER, GOOD | {"content": "\udc00"}]} | {"prompt": None},
            "lone_surrogate",
            "chosen[1].content",
            "character 1",
        ),
        (TEXT | {"margin": True}, "invalid_margin", "margin", "True"),
        (TEXT | {"margin": "1"}, "invalid_margin", "margin", '"1"'),
        (TEXT | {"margin": [0.5]}, "invalid_margin", "margin", "a list"),
        (TEXT | {"margin": -0.1}, "invalid_margin", "margin", "-0.1"),
        (TEXT | {"margin": float("inf")}, "invalid_margin", "margin", "inf"),
        (TEXT | {"margin": 10**400}, "invalid_margin", "margin", "1000"),
        (TEXT | {"slice": 3}, "invalid_slice", "slice", "a number"),
        (TEXT | {"slice": "a\nb"}, "invalid_slice", "slice", '"a\\nb"'),
        (TEXT | {"slice": "a" * 65}, "invalid_slice", "slice", "…"),
        (TEXT | {"tools": [{"name": "f"}]}, "unsupported_column", "tools", "not supported"),
        (
            TEXT | {"chat_template_kwargs": {"enable_thinking": False}},
            "unsupported_column",
            "chat_template_kwargs",
            "not supported",
        ),
    ],
)
def test_bad_row_is_named_by_field_and_reason(
    row: dict[str, Any], code: str, column: str, says: str
) -> None:
    with pytest.raises(RowError) as caught:
        PairChecker().canonical_line(1, row)
    assert (caught.value.code, caught.value.column) == (code, column)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("first", "second", "code", "says"),
    [
        (TEXT, {"chosen": [GOOD], "rejected": [BAD]}, "mixed_format", "conversational, line 3"),
        (TEXT, TEXT | {"prompt": "p"}, "mixed_prompt", "has a prompt, unlike line 3"),
        (CHAT, CHAT | {"prompt": None}, "mixed_prompt", "has no prompt"),
        (TEXT, TEXT | {"margin": 0.0}, "mixed_margin", "has a margin"),
        (TEXT | {"margin": 1}, TEXT | {"margin": None}, "mixed_margin", "has no margin"),
    ],
)
def test_row_unlike_the_first_is_refused(
    first: dict[str, Any], second: dict[str, Any], code: str, says: str
) -> None:
    checker = PairChecker()
    checker.canonical_line(3, first)
    with pytest.raises(RowError) as caught:
        checker.canonical_line(4, second)
    assert caught.value.code == code
    assert says in caught.value.message


def test_refused_row_sets_no_shape() -> None:
    checker = PairChecker()
    with pytest.raises(RowError):
        checker.canonical_line(1, TEXT | {"prompt": "p", "chosen": "\ud800"})
    checker.canonical_line(2, CHAT)
    assert checker.summary().format == "conversational"
    assert checker.pair_count == 1


def test_reply_that_begins_like_a_short_prompt_is_kept() -> None:
    row = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi."}
    assert normalise(row) == row


def test_text_that_only_looks_a_little_like_a_list_is_kept() -> None:
    row = {"chosen": "[1, 2]", "rejected": '[{"a": 1}]'}
    assert normalise(row) == row


def test_negative_zero_margin_is_zero() -> None:
    assert str(normalise(TEXT | {"margin": -0.0})["margin"]) == "0.0"


def test_slices_are_counted_up_to_a_limit() -> None:
    checker = PairChecker()
    for number in range(MAX_SLICES):
        checker.canonical_line(number, TEXT | {"slice": f"s{number}"})
    checker.canonical_line(500, TEXT | {"slice": "s0"})
    checker.canonical_line(501, TEXT)
    with pytest.raises(RowError, match="label number 101") as caught:
        checker.canonical_line(502, TEXT | {"slice": "one more"})
    assert caught.value.code == "too_many_slices"
    summary = checker.summary()
    assert summary.pair_count == MAX_SLICES + 2
    assert summary.slices["s0"] == 2
    assert sum(summary.slices.values()) == MAX_SLICES + 1
