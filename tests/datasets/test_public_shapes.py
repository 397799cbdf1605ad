"""Rows as public datasets, training frameworks and annotation tools write them."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

import pytest

from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader
from tests.datasets.test_shapes import as_pairs, read, refusal

Row = dict[str, Any]


def user(content: Any) -> Row:
    return {"role": "user", "content": content}


def assistant(content: Any) -> Row:
    return {"role": "assistant", "content": content}


WHOLE = {"chosen": [user("P"), assistant("G")], "rejected": [user("P"), assistant("B")]}
PAIR = {"prompt": "P", "chosen": "G", "rejected": "B"}
TWO = {"prompt": "P", "response_a": "B", "response_b": "G"}
BETTER = {"content": "G", "preferenceLabel": "preferred"}
WORSE = {"content": "B", "preferenceLabel": "non-preferred"}
EXPECTED = ([user("P")], [assistant("G")], [assistant("B")])


def varied(row: Row, names: list[str], number: int) -> Row:
    """Return a row whose text in the named columns is its own, as in a real dataset."""
    return row | {name: f"{row[name]} {number}" for name in names}


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (PAIR | {"metadata": '{"length": 3}'}, ["metadata"]),
        (PAIR | {"rationale": "G is better"}, ["rationale"]),
        (PAIR | {"Preference Explanation": "It is true"}, ["Preference Explanation"]),
        (WHOLE | {"prompt": "P", "all_generated_responses": "G B C"}, ["all_generated_responses"]),
        (WHOLE | {"chosen_policy": "a", "candidates_completions": "x"}, ["candidates_completions"]),
        (TWO | {"winner": "b", "feedback": "too long"}, ["feedback"]),
    ],
)
def test_text_about_a_pair_is_left_out_with_a_warning(row: Row, named: list[str]) -> None:
    rows, summary = read([varied(row, named, number) for number in range(3)])
    assert as_pairs(rows) == [EXPECTED] * 3
    (warning,) = (each for each in summary.warnings if each.code == "columns_ignored")
    assert all(name in warning.message for name in named)


def test_system_prompt_of_a_completion_is_left_out_with_a_warning() -> None:
    completions = [
        {"response": text, "overall_score": score, "custom_system_prompt": f"Be {text}."}
        for text, score in (("B", 1.0), ("G", 8.5))
    ]
    rows, summary = read([{"instruction": "P", "completions": completions}] * 2)
    assert as_pairs(rows) == [EXPECTED] * 2
    assert "custom_system_prompt" in summary.warnings[0].message


def test_comparison_of_summaries_is_read_with_its_whole_post() -> None:
    row = {
        "info": {"id": "t3_x", "title": "Cats", "post": "My cat.", "subreddit": "pets",
                 "article": None, "site": None},
        "summaries": [{"text": "B", "policy": "sup", "note": ""}, {"text": "G", "policy": "ref"}],
        "choice": 1, "worker": "w", "batch": "b", "split": "train", "extra": {"confidence": 4},
    }  # fmt: skip
    rows, _ = read([row, row | {"choice": "0"}])
    post = "SUBREDDIT: r/pets\n\nTITLE: Cats\n\nPOST: My cat.\n\nTL;DR:"
    assert [(each["prompt"], each["chosen"], each["rejected"]) for each in rows] == [
        (post, "G", "B"),
        (post, "B", "G"),
    ]
    article = row | {"info": {"article": "News.", "post": None, "title": "T"}}
    assert read([article])[0][0]["prompt"] == "TITLE: T\n\nARTICLE: News.\n\nTL;DR:"
    for changed in ({"choice": 2}, {"choice": None}, {"summaries": []}):
        assert refusal([row | changed]).rows[0].code == "invalid_label"
    assert refusal([row | {"info": {"title": "T"}}]).rows[0].column == "info.post"


def test_all_other_samples_are_worse_than_the_best() -> None:
    row = {"query": "P", "sample0": "B", "sample1": "G", "sample2": "C", "best": 1}
    (stored,), _ = read([row])
    assert [(each["rank"], each["reply"]) for each in stored["replies"]] == [
        (1, "G"),
        (2, "B"),
        (2, "C"),
    ]
    assert refusal([row | {"best": 3}]).rows[0].column == "best"


def test_number_of_the_best_sample_is_that_of_its_name() -> None:
    row = {"query": "P", "sample_0": "C", "sample_2": "G", "sample_1": None, "best": 2}
    (stored,), _ = read([row])
    assert (stored["chosen"], stored["rejected"]) == ("G", "C")
    assert refusal([row, row | {"best": 1}]).rows[0].code == "invalid_label"


def test_samples_that_are_not_numbered_from_0_are_not_read() -> None:
    row = {"query": "P", "sample1": "B", "sample2": "G", "best": 1}
    assert refusal([row]).rows[0].code == "missing_column"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"summaries": 5}, "invalid_label"),
        ({"summaries": [None, {"text": "G"}], "choice": 0}, "missing_column"),
        ({"info": {"post": "P", "question": "Why?"}}, "unused_column"),
        ({"summaries": [{"text": "B", "draft": "x"}, {"text": "G"}]}, "unused_column"),
    ],
)
def test_comparison_of_summaries_of_another_form_is_refused(changed: Row, code: str) -> None:
    row = {"info": {"post": "P"}, "summaries": [{"text": "B"}, {"text": "G"}], "choice": 1}
    other = json.loads(json.dumps(changed).replace("Why?", "How?").replace('"x"', '"y"'))
    assert refusal([row | changed, row | other]).rows[0].code == code


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"query": "P", "sample0": "B", "sample1": "G", "best": 1}, "chosen"),
        (
            {"info": {"post": "P"}, "summaries": [{"text": "B"}, {"text": "G"}], "choice": 1},
            "prompt",
        ),
    ],
)
def test_column_that_a_shape_writes_is_not_overwritten(row: Row, column: str) -> None:
    found = refusal([row, row | {column: "text"}]).rows[0]
    assert (found.code, found.column, found.line) == ("two_values", column, 2)


def test_candidates_without_both_labels_are_refused() -> None:
    one = {"content": "G", "preferenceLabel": "preferred"}
    rows = [{"messages": [user("P"), {"role": "assistant", "candidates": [one]}]}]
    found = refusal(rows).rows[0]
    assert (found.code, found.column) == ("invalid_label", "messages[1]")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"candidates": 5}, "invalid_label"),
        ({"candidates": [BETTER, WORSE, "C"]}, "invalid_label"),
        ({"candidates": [BETTER, WORSE | {"preferenceLabel": "neutral"}]}, "invalid_label"),
        ({"candidates": [BETTER, WORSE, WORSE | {"preferenceLabel": ["x"]}]}, "invalid_label"),
        ({"content": "and"}, "two_values"),
    ],
)
def test_no_candidate_is_lost(changed: Row, code: str) -> None:
    last = {"role": "assistant", "candidates": [BETTER, WORSE]}
    rows = [{"messages": [user("P"), each]} for each in (last, last | changed)]
    assert as_pairs(read(rows[:1])[0]) == [EXPECTED]
    found = refusal(rows).rows[0]
    assert (found.code, found.column, found.line) == (code, "messages[1]", 2)


@pytest.mark.parametrize("messages", [5, "text", [5]])
def test_row_without_candidates_is_refused(messages: Any) -> None:
    row = {"messages": [user("P"), {"role": "assistant", "candidates": [BETTER, WORSE]}]}
    found = refusal([row, {"messages": messages}]).rows[0]
    assert (found.code, found.line) == ("invalid_label", 2)


def test_text_is_no_reply_beside_another_rejected_one() -> None:
    row = {"question": "P", "text": "G", "rejected_response": "B"}
    assert refusal([row]).rows[0].code == "missing_column"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("response_1", "response_2"), (1, 0, 1)),
        (("response_0", "response_1"), (1, 2, 1)),
        (("response_1", "response_2"), (1, -1, 1)),
        (("response_0", "response_1"), ("-1", 0, "\u22121")),
    ],
)
def test_numbers_that_count_otherwise_name_no_side(
    names: tuple[str, str], labels: tuple[int | str, ...]
) -> None:
    row = {"prompt": "P", names[0]: "B", names[1]: "G"}
    rows = [row | {"label": label} for label in labels]
    assert refusal(rows).rows[0].code == "invalid_label"
    found = refusal(rows, ReadOptions(on_invalid="skip")).rows[0]
    assert found.code in ("empty_dataset", "too_many_skipped")


def test_lists_of_texts_beside_a_label_are_refused() -> None:
    row = {"prompt": "P", "response_a": ["B"], "response_b": ["G", "C"], "winner": "b"}
    found = refusal([row, row | {"response_b": ["G"]}]).rows[0]
    assert (found.code, found.column) == ("wrong_type", "response_b[0]")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "P", "input": "Q", "output_1": "B", "output_2": "G", "preference": 2},
        {"instruction": "P", "input": "Q", "output": "G", "rejected_answer": "B"},
        {"instruction": "P", "input": "Q", "generations": ["B", "G"], "ratings": [1, 5]},
    ],
)
def test_input_of_an_instruction_is_read_in_every_shape(row: Row) -> None:
    assert as_pairs(read([row])[0])[0][0] == [user("P\nQ")]
    assert as_pairs(read([row, row | {"input": ""}])[0])[1] == EXPECTED


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "winner"),
    [
        ("B", "b"), ("response_b", "b"), ("Response B", "b"), ("response-b", "b"),
        ("Assistant B", "b"), ("[[B]]", "b"), ("[[B>>A]]", "b"), ("B is better", "b"),
        ("B is slightly better", "b"), ("A-is-clearly-better", "a"), ("left", "a"), ("right", "b"),
        ("Tie", "tie"), ("tie (bothbad)", "tie"), ("Both good", "tie"), ("No preference", "tie"),
        ("About the same", "tie"), (["response_b"], "b"), (["a", "b", "b"], "b"),
        (["a", "b"], "tie"),
        ([{"user_id": "u", "value": "response_b", "status": "submitted"}], "b"),
        ([{"value": "a", "status": "discarded"}, {"value": "b", "status": "submitted"}], "b"),
        ([{"value": {"rank": [2, 1], "value": ["response_a", "response_b"]}}], "b"),
        ([{"value": {"rank": [1, 1], "value": ["response_a", "response_b"]}}], "tie"),
        ("gpt", "b"), ("llama", "a"),
    ],
)  # fmt: skip
def test_label_in_words_or_votes_names_the_better_response(label: Any, winner: str) -> None:
    sure = TWO | {"model_a": "llama", "model_b": "gpt", "winner": "b"}
    rows, summary = read([sure, sure | {"winner": label}])
    found = [pair[1] for pair in as_pairs(rows)[1:]]
    assert found == {"a": [[assistant("B")]], "b": [[assistant("G")]], "tie": []}[winner]
    assert len(summary.skipped) == (winner == "tie")


@pytest.mark.parametrize(
    "label", [0, 1, "1", True, 0.8, "c", "A is worse", "not b", [], [1, 0], [{"x": 1}], {}, None]
)
def test_label_that_names_no_response_is_refused(label: Any) -> None:
    found = refusal([TWO | {"winner": "b"}, TWO | {"winner": label}]).rows[0]
    assert (found.code, found.line) == ("invalid_label", 2)


@pytest.mark.parametrize("label", [2, 2.0, "2", "2.0", "Response 2", "response_2", "model_2"])
def test_number_names_the_response_in_whose_name_it_is(label: Any) -> None:
    row = {"prompt": "P", "response_1": "B", "response_2": "G", "label": label}
    assert as_pairs(read([row])[0]) == [EXPECTED]


@pytest.mark.parametrize(
    ("label", "options"),
    [
        (1, ReadOptions(labels={"a": "0", "b": "1"})),
        ("1.0", ReadOptions(labels={"a": "0", "b": "1"})),
        (True, ReadOptions(labels={"a": "False", "b": "True"})),
        ("yes", ReadOptions(labels={"a": "No", "b": "Yes"})),
        ("b", ReadOptions(labels={"tie": "c"})),
    ],
)
def test_labels_alone_explain_the_label_of_a_known_shape(label: Any, options: ReadOptions) -> None:
    rows, _ = read([TWO | {"winner": label}], options)
    assert as_pairs(rows) == [EXPECTED]


def test_labels_replace_the_known_values_unless_they_name_only_ties() -> None:
    row = {"prompt": "P", "response_1": "B", "response_2": "G", "label": 2}
    rows = [row, row | {"label": 0}]
    assert len(read(rows, ReadOptions(labels={"tie": "0"}))[0]) == 1
    found = refusal(rows, ReadOptions(labels={"b": "2"})).rows[0]
    assert (found.code, found.line) == ("invalid_label", 2)


# --- forms of messages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        lambda role, text: {"role": role, "content": [text]},
        lambda role, text: {"role": role, "text": text},
        lambda role, text: {"role": role, "value": text},
        lambda role, text: {"role": role, "content": None, "text": text},
        lambda role, text: {"role": role, "parts": [{"text": text}]},
        lambda role, text: {"role": role.upper(), "content": text},
        lambda role, text: {"from": role.title(), "value": text},
        lambda role, text: {"role": {"user": "prompter"}.get(role, "Model"), "content": text},
    ],
)
def test_message_with_other_names_is_read(message: Any) -> None:
    row = {"prompt": [message("user", "P")], "chosen": [message("assistant", "G")],
           "rejected": [message("assistant", "B")]}  # fmt: skip
    assert as_pairs(read([row])[0]) == [EXPECTED]


@pytest.mark.parametrize(
    "system",
    ["S", {"role": "system", "content": "S"}, {"parts": [{"text": "S"}]}, [{"text": "S"}], ["S"]],
)
def test_system_text_may_be_a_message_or_parts(system: Any) -> None:
    (row,), _ = read([PAIR | {"system": system}])
    assert row["prompt"] == [{"role": "system", "content": "S"}, user("P")]


@pytest.mark.parametrize("system", [{"x": 1}, [1], 5])
def test_system_that_is_no_text_is_refused(system: Any) -> None:
    assert refusal([PAIR | {"system": system}]).rows[0].column.startswith("system")


def test_tools_may_be_json_texts_and_be_called_functions() -> None:
    tool = {"name": "f", "parameters": {}}
    for tools in ({"tools": [json.dumps(tool)]}, {"functions": [tool]}):
        (row,), _ = read([PAIR | tools])
        assert row["tools"] == [tool]


def test_prompt_may_be_a_list_of_one_text() -> None:
    assert as_pairs(read([PAIR | {"prompt": ["P"]}])[0]) == [EXPECTED]


def test_prompt_may_be_null_where_the_conversations_hold_it() -> None:
    rows = [WHOLE | {"prompt": "P"}, WHOLE | {"prompt": "P"}, WHOLE | {"prompt": None}]
    assert as_pairs(read(rows)[0]) == [EXPECTED] * 3
    alone = {"prompt": None, "chosen": [assistant("G")], "rejected": [assistant("B")]}
    assert refusal([*rows, alone]).rows[0].code == "mixed_prompt"


# --- JSON inside text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {name: json.dumps(value) for name, value in WHOLE.items()},
        {
            "prompt": "P",
            "chosen": json.dumps(assistant("G")),
            "rejected": json.dumps(assistant("B")),
        },
        {"prompt": "P", "responses": '["B", "G"]', "scores": "[0.1, 0.9]"},
        {"prompt": "P", "answers": '[{"text": "G", "rank": 1}, {"text": "B", "rank": 2}]'},
    ],
)
def test_columns_with_json_texts_are_decoded(row: Row) -> None:
    assert as_pairs(read([row] * 2)[0]) == [EXPECTED] * 2
    lines = [",".join(row), ",".join('"' + text.replace('"', '""') + '"' for text in row.values())]
    reader = DatasetReader()
    stored = b"".join(reader.read(["\n".join(lines).encode()], "csv"))  # type: ignore[list-item]
    assert as_pairs([json.loads(stored)]) == [EXPECTED]


def test_reply_may_be_json_of_another_kind() -> None:
    row = {"prompt": "P", "chosen": '["G"]', "rejected": '{"role": 1}'}
    (stored,), _ = read([row])
    assert (stored["chosen"], stored["rejected"]) == ('["G"]', '{"role": 1}')


@pytest.mark.parametrize(
    "text", ["[3, 1, 2]", '["b", "a"]', "[sighs] I [laughs]", '{"messages": [1], "x": 2}']
)
def test_input_of_an_instruction_in_brackets_stays_text(text: str) -> None:
    (stored,), _ = read([{"instruction": "Sort.", "input": text, "chosen": "G", "rejected": "B"}])
    assert stored["prompt"] == f"Sort.\n{text}"
    encoded = json.dumps([user("P"), assistant("R"), user(text)])
    (stored,), _ = read([{"input": encoded, "chosen": "G", "rejected": "B"}])
    assert stored["prompt"] == [user("P"), assistant("R"), user(text)]


def test_input_that_no_part_uses_is_not_lost_as_a_list_of_numbers() -> None:
    rows = [PAIR | {"input": f"[3, 1, {n}]"} for n in range(2)]
    assert refusal(rows).rows[0].code == "unused_column"


def test_text_in_brackets_that_is_not_json_stays_text() -> None:
    row = {"history": "[WP] Tell me [long]", "labels": 1, "human_ref_A": "G", "human_ref_B": "B"}
    assert as_pairs(read([row])[0])[0][0] == [user("[WP] Tell me [long]")]


def test_rows_without_any_readable_json_are_named() -> None:
    found = refusal([{"chosen": '[{"role": "user", ', "rejected": '[{"role": "user", '}]).rows[0]
    assert (found.code, found.line) == ("invalid_json", 1)


@pytest.mark.parametrize("name", ["source", "metadata", "generations"])
def test_broken_json_in_a_column_that_is_not_read_is_left_alone(name: str) -> None:
    (stored,), summary = read([PAIR | {name: '[{"role": "user", "content": "cut'}])
    assert as_pairs([stored]) == [EXPECTED]
    assert name in summary.ignored_columns


# --- advice that can be followed ----------------------------------------------------------------


def followed(hint: str) -> ReadOptions:
    """Return the options of the query that a hint shows."""
    query = re.search(r"\?(\S+)", hint)
    assert query is not None, hint
    given = parse_qsl(query[1])
    ignored = [name for key, names in given if key == "ignore_columns" for name in names.split(",")]
    columns = {key[8:-1]: name for key, name in given if key.startswith("columns[")}
    return ReadOptions(columns=columns, ignore_columns=frozenset(ignored))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "P", "pos_resp": "G", "neg_resp": "B"},
        {"prompt": "P", "y_w": "G", "y_l": "B"},
        {"query": "P", "preferred answer": "G", "rejected answer": "B"},
        {"问题": "P", "好的回答": "G", "差的回答": "B"},
        {"prompt_id": "x", "prompt": "P", "chosen": "G", "reject": "B", "chosen_score": 1.5},
        {"context": "P", "edited_response": "G", "original_response": "B"},
        {"prompt": "P", "output": "G", "bad_output": "B"},
        {"inputs": {"question": "P"}, "outputs": {"chosen": "G", "rejected": "B"}},
        {"prompt": "P", "outputs": {"a": "B", "b": "G"}, "winner": "b"},
        {"q_text": "P", "left_answer": "B", "right_answer": "G", "vote": "right"},
        {"prompt": "P", "my_response_a": "B", "my_response_b": "G", "a_votes": 1, "b_votes": 2},
        {"prompt": "P", "texts": ["B", "G"], "text_scores": [1, 2]},
        {"prompt": "P", "texts": ["B", "G"], "text_ranks": [2, 1]},
        {"conversation": [user("P")], "answer_chosen": "G", "answer_rejected": "B"},
    ],
)
def test_mapping_that_an_error_suggests_is_accepted(row: Row) -> None:
    found = refusal([row] * 2).rows[0]
    assert found.code == "missing_column"
    assert as_pairs(read([row] * 2, followed(found.hint))[0]) == [EXPECTED] * 2


def test_suggested_mapping_ignores_the_columns_that_it_would_lose() -> None:
    row = {"prompt": "P", "good_reply": "G", "bad_reply": "B", "draft text": "D", "note": "N"}
    rows = [varied(row, ["draft text", "note"], number) for number in range(3)]
    found = refusal(rows).rows[0]
    options = followed(found.hint)
    assert options.ignore_columns == {"draft text", "note"}
    assert '"draft text", "note"' in found.hint
    assert as_pairs(read(rows, options)[0]) == [EXPECTED] * 3


def test_suggested_mapping_asks_for_the_meaning_of_unknown_labels() -> None:
    found = refusal([TWO | {"b_is_better": True}]).rows[0]
    assert "columns[label]=b_is_better&labels[a]=…&labels[b]=…" in found.hint
    columns = {"response_a": "response_a", "response_b": "response_b", "label": "b_is_better"}
    options = ReadOptions(columns=columns, labels={"a": "false", "b": "true"})
    assert as_pairs(read([TWO | {"b_is_better": True}], options)[0]) == [EXPECTED]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (TWO | {"annotations": [{"x": "y"}]}, 'no column says which of "response_a" and'),
        ({"prompt": "P", "completions": ["a", "b"], "labels": [True, False]}, "the steps of one"),
        ({"version": "1", "rows": [PAIR, PAIR]}, 'its rows seem to be in "rows"'),
        ({"prompt": "P", "response": "G", "is_safe": True}, "each row has one reply"),
        ({"prompt": "P", "output": "G", "options": [{"text": "G"}, {"text": "B"}]}, "no known"),
        ({name: {"0": text, "1": text} for name, text in PAIR.items()}, "columns, not rows"),
        ({name: [text, text] for name, text in PAIR.items()}, "columns, not rows"),
    ],
)  # fmt: skip
def test_file_without_pairs_is_told_why(row: Row, says: str) -> None:
    assert says in refusal([row]).rows[0].message


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (TWO | {"winner": "b", "notes": "S"}, {"system": "notes"}),
        ({"task": "P", "answers": [{"text": "G", "rank": 1}, {"text": "B", "rank": 2}]},
         {"prompt": "task"}),
        ({"Task": "P", "Response A": "B", "Response B": "G", "Winner": "b"}, {"prompt": "Task"}),
        (WHOLE | {"notes": "S"}, {"system": "notes"}),
        ({"instruction": "P", "chosen": "G", "rejected": "B", "notes": "S"}, {"system": "notes"}),
    ],
)  # fmt: skip
def test_mapping_of_one_part_adds_it_to_the_recognised_shape(row: Row, columns: Row) -> None:
    rows, summary = read([row] * 2, ReadOptions(columns=columns))
    assert summary.shape == "mapped"
    ((prompt, good, bad), _) = as_pairs(rows)
    system = [{"role": "system", "content": "S"}] if "system" in columns else []
    assert (prompt, good, bad) == ([*system, user("P")], *EXPECTED[1:])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "P", "response_1": "B", "response_2": "G", "preference_strength": 2, "size": 1},
        {"prompt": "P", "answers": [{"text": "G", "rank": 1}, {"text": "B", "rank": 2}], "size": 1},
    ],
)
def test_margin_that_a_recognised_shape_cannot_have_is_refused(row: Row) -> None:
    options = ReadOptions(columns={"margin": "size"})
    assert refusal([row], options).rows[0].code == "invalid_mapping"


def test_prompt_is_not_lost_in_a_file_of_one_row() -> None:
    found = refusal([{"my_prompt": "P", "chosen": "G", "rejected": "B"}]).rows[0]
    assert (found.code, found.column) == ("unused_column", "my_prompt")
    assert "columns[prompt]=my_prompt" in found.hint


@pytest.mark.parametrize("name", ["task", "Topic", "source"])
def test_sentences_are_no_category_where_the_prompt_is_missing(name: str) -> None:
    rows = [{name: f"Write a poem about {n}.", "chosen": "G", "rejected": "B"} for n in "xyz"]
    found = refusal(rows).rows[0]
    assert (found.code, found.column) == ("unused_column", name)
    assert as_pairs(read(rows, ReadOptions(columns={"prompt": name}))[0])[0][0] != []
    for short in ("math", "multi turn chat"):
        assert read([row | {name: short} for row in rows])[1].warnings == []
    assert read([row | {"prompt": "P"} for row in rows])[1].warnings == []


def test_text_with_a_name_that_is_nearly_harmless_is_not_lost() -> None:
    for name in ("model_response", "Model Answer"):
        found = refusal([PAIR | {name: f"text {number}"} for number in range(2)]).rows[0]
        assert (found.code, found.column) == ("unused_column", name)
    _, summary = read([PAIR | {"score_explanation": f"text {number}"} for number in range(2)])
    assert [warning.code for warning in summary.warnings] == ["columns_ignored"]


def test_columns_to_ignore_may_be_named_as_the_error_names_them() -> None:
    row = {"Prompt": "P", "Chosen": "G", "Rejected": "B", "My Draft": "D"}
    rows = [varied(row, ["My Draft"], number) for number in range(2)]
    found = refusal(rows).rows[0]
    options = ReadOptions(ignore_columns=frozenset({str(found.column)}))
    assert as_pairs(read(rows, options)[0]) == [EXPECTED] * 2


@pytest.mark.parametrize("name", ["prompt", "Prompt", "\ufeffprompt", "PROMPT "])
def test_prompt_is_recognised_beside_replies_with_the_usual_names(name: str) -> None:
    assert as_pairs(read([{name: "P", "chosen": "G", "rejected": "B"}])[0]) == [EXPECTED]


def test_key_of_a_used_column_is_ignored_as_the_error_advises() -> None:
    openai = {"preferred_output": [assistant("G")], "non_preferred_output": [assistant("B")]}
    rows = [openai | {"input": {"messages": [user("P")], "note": f"n{n}"}} for n in range(3)]
    found = refusal(rows).rows[0]
    assert "ignore_columns=input.note" in found.hint
    stored, summary = read(rows, ReadOptions(ignore_columns=frozenset({"input.note"})))
    assert as_pairs(stored) == [EXPECTED] * 3
    assert "input.note" in summary.warnings[0].message
    described = [row | {"input": {"messages": [user("P")], "metadata": row}} for row in rows]
    assert "input.metadata" in read(described)[1].warnings[0].message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("image_url", "found an image; images are"),
        ("image_path", "found an image; images are"),
        ("rejected_images", "found an image; images are"),
        ("Image", "found an image; images are"),
        ("video", "found video; video is"),
        ("audio_path", "found audio; audio is"),
    ],
)
def test_images_audio_and_video_are_named(name: str, says: str) -> None:
    found = refusal([PAIR | {name: "https://example.org/1"}]).rows[0]
    assert (found.code, found.column) == ("image_parts", name)
    assert found.message.startswith(says)
    assert read([PAIR | {name: None}, PAIR | {name: []}])[1].row_count == 2


def test_reply_in_an_object_is_mapped_as_the_error_advises() -> None:
    row = {"prompt": "P", "chosen": {"text": "G", "score": 2}, "rejected": {"text": "B"}}
    found = refusal([row]).rows[0]
    assert "columns[chosen]=chosen.text" in found.hint
    columns = {"chosen": "chosen.text", "rejected": "rejected.text"}
    assert as_pairs(read([row], ReadOptions(columns=columns))[0]) == [EXPECTED]


def test_tool_calls_may_be_json_text() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    message = {"role": "assistant", "content": "", "tool_calls": json.dumps([call])}
    (row,), _ = read([{"prompt": [user("P")], "chosen": [message], "rejected": [assistant("B")]}])
    assert row["chosen"][0]["tool_calls"] == [call]


def test_error_tells_how_to_skip_the_bad_rows() -> None:
    error = refusal([PAIR] * 3 + [PAIR | {"chosen": ""}])
    assert error.hint is not None
    assert error.hint.endswith("To store the dataset without them, set on_invalid=skip.")
    assert "on_invalid" not in str(refusal([PAIR | {"chosen": ""}] * 3).hint)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (
            {"prompt": "P", "response": "G", "rejected_response": {"text": "B"}},
            "columns[rejected]=rejected_response.text",
        ),
        ({"question": "P", "answers": [{"text": "G"}, {"text": "B"}], "ranks": [1, 2]}, "'text'"),
        (
            {"query": "P", "response": WHOLE["chosen"], "rejected_response": WHOLE["rejected"]},
            "ignore_columns=query",
        ),
        (
            {
                "system_prompt": "Be short.",
                "chosen": [{"role": "system", "content": "S"}, *WHOLE["chosen"]],
                "rejected": [{"role": "system", "content": "S"}, *WHOLE["rejected"]],
            },
            "ignore_columns=system_prompt",
        ),
    ],
)
def test_advice_names_parts_and_columns_of_the_file(row: Row, advice: str) -> None:
    row = json.loads(json.dumps(row).replace('"query": "P"', '"query": "Other"'))
    assert advice in refusal([row]).rows[0].hint.replace('"', "'")


@pytest.mark.parametrize(
    ("rows", "unwanted"),
    [
        ([{"query": "P", "best": "G", "explanation": {"k": "why"}}], "explanation.k"),
        (
            [{"query": "P", "better": n, "answer": "G", "worse": "B"} for n in (1, 2, "b")],
            "columns[chosen]=better",
        ),
        ([{"system_prompt": "S", "accepted": "G", "rejected": "B"}], "[prompt]=system_prompt"),
    ],
)
def test_mapping_that_would_misread_a_column_is_not_suggested(
    rows: list[Row], unwanted: str
) -> None:
    assert unwanted not in refusal(rows).rows[0].hint
