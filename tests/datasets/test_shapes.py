"""Every shape of the table: recognised, named, and read into the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.datasets.canonical import DatasetSummary
from app.datasets.options import ReadOptions
from app.datasets.reading import DatasetReader, ReadLimits
from app.datasets.row_errors import InvalidDatasetError
from app.datasets.shapes.shape import Shape
from app.datasets.shapes.table import SHAPES
from app.datasets.unused import MEANINGFUL, is_harmless

# The machine may be busy; a slow example is not a failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(
    rows: list[dict[str, Any]],
    options: ReadOptions | None = None,
    limits: ReadLimits | None = None,
) -> tuple[list[dict[str, Any]], DatasetSummary]:
    """Return the stored rows and the summary."""
    reader = DatasetReader(limits, options)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    lines = b"".join(reader.read([data], "jsonl")).split(b"\n")[:-1]
    return [json.loads(line) for line in lines], reader.summary


def refusal(
    rows: list[dict[str, Any]],
    options: ReadOptions | None = None,
    limits: ReadLimits | None = None,
) -> InvalidDatasetError:
    with pytest.raises(InvalidDatasetError) as caught:
        read(rows, options, limits)
    return caught.value


def messages(content: Any, role: str) -> list[dict[str, str]]:
    """Return a text as a message, and messages unchanged."""
    return [{"content": content, "role": role}] if isinstance(content, str) else content


def as_pairs(rows: list[dict[str, Any]]) -> list[tuple[Any, Any, Any]]:
    """Return prompt, best and worst reply of each row as messages."""
    found = []
    for row in rows:
        if "replies" in row:
            better, worse = row["replies"][0]["reply"], row["replies"][-1]["reply"]
        else:
            better, worse = row["chosen"], row["rejected"]
        prompt = messages(row.get("prompt", []), "user")
        found.append((prompt, messages(better, "assistant"), messages(worse, "assistant")))
    return found


# --- the examples of the table ------------------------------------------------------------------

EXAMPLES = [
    pytest.param(shape, dict(example), id=f"{shape.name}-{index}")
    for shape in SHAPES
    for index, example in enumerate(shape.examples)
]
SYSTEM = {"content": "You are helpful.", "role": "system"}


@pytest.mark.parametrize(("shape", "example"), EXAMPLES)
def test_example_of_a_shape_is_recognised_and_read(shape: Shape, example: dict[str, Any]) -> None:
    rows, summary = read([example] * 3)
    assert summary.shape == shape.name
    for prompt, better, worse in as_pairs(rows):
        assert prompt[-1]["role"] == "user"
        assert "2" in prompt[-1]["content"]
        assert better == [{"content": "It is 4.", "role": "assistant"}]
        assert worse[0]["content"] in ("It is 5.", "Who knows.")
    assert {w.code for w in summary.warnings} <= {"sources_one_sided"}


@pytest.mark.parametrize(("shape", "example"), EXAMPLES)
def test_no_column_is_listed_as_ignored_that_a_shape_uses(
    shape: Shape, example: dict[str, Any]
) -> None:
    """An ignored column does not change the recognition and reading of an upload."""
    rows, summary = read([example] * 3)
    for name in summary.ignored_columns:
        if "[]" in name:
            continue
        without = json.loads(json.dumps(example))
        root, _, key = name.partition(".")
        if key:
            del without[root][key]
        else:
            del without[name]
        found, again = read([without] * 3)
        assert found == rows, name
        assert again.shape == shape.name, name


def test_keys_of_a_used_column_are_ignored_one_by_one() -> None:
    (openai,) = (shape for shape in SHAPES if shape.name == "openai_preference")
    _, summary = read([dict(openai.examples[0])] * 3)
    assert summary.ignored_columns == ["input.parallel_tool_calls"]


def test_names_of_shapes_are_unique() -> None:
    names = [shape.name for shape in SHAPES]
    assert len(set(names)) == len(names)


# --- the same pairs in every shape --------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A pair that is written in a shape."""

    prompt: str
    good: str
    bad: str

    @property
    def user(self) -> dict[str, str]:
        return {"role": "user", "content": self.prompt}

    def say(self, text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}


def _sided(prompt: str, pair: Drawn, **more: Any) -> dict[str, Any]:
    return {prompt: pair.prompt, "chosen": pair.good, "rejected": pair.bad, **more}


def _two(a: str, b: str, pair: Drawn, **more: Any) -> dict[str, Any]:
    """The worse response comes first."""
    return {a: pair.bad, b: pair.good, **more}


WRITERS: dict[str, Callable[[Drawn], dict[str, Any]]] = {
    "pairs, text": lambda p: _sided("prompt", p),
    "pairs, messages": lambda p: {
        "prompt": [p.user], "chosen": [p.say(p.good)], "rejected": [p.say(p.bad)],
    },
    "pairs, single messages": lambda p: {
        "prompt": p.prompt, "chosen": p.say(p.good), "rejected": p.say(p.bad),
    },
    "pairs, messages and text": lambda p: {
        "prompt": [p.user], "chosen": p.good, "rejected": p.bad,
    },
    "pairs, text parts": lambda p: {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": p.prompt}]}],
        "chosen": [p.say(p.good)],
        "rejected": [p.say(p.bad)],
    },
    "pairs, prompt twice": lambda p: {
        "prompt": [p.user],
        "chosen": [p.user, p.say(p.good)],
        "rejected": [p.user, p.say(p.bad)],
    },
    "pairs, other case": lambda p: {
        "Prompt": p.prompt, "Chosen": p.good, "Rejected": p.bad,
    },
    "conversations": lambda p: {
        "chosen": [p.user, p.say(p.good)], "rejected": [p.user, p.say(p.bad)], "source": "x",
    },
    "ultrafeedback_binarized": lambda p: {
        "prompt": p.prompt,
        "prompt_id": "1",
        "chosen": [p.user, p.say(p.good)],
        "rejected": [p.user, p.say(p.bad)],
        "messages": [p.user, p.say(p.good)],
        "score_chosen": 8.5,
    },
    "orca": lambda p: _sided("question", p, system=""),
    "distilabel": lambda p: _sided("input", p),
    "alpaca": lambda p: _sided("instruction", p, input=""),
    "rewardbench": lambda p: _sided("prompt", p, subset="x", id=1),
    "rewardbench2": lambda p: {
        "prompt": p.prompt, "chosen": [p.good], "rejected": [p.bad], "subset": "x",
    },
    "hh_rlhf": lambda p: {
        "chosen": f"\n\nHuman: {p.prompt}\n\nAssistant: {p.good}",
        "rejected": f"\n\nHuman: {p.prompt}\n\nAssistant: {p.bad}",
    },
    "hh_rlhf, prompt apart": lambda p: {
        "prompt": f"\n\nHuman: {p.prompt}\n\nAssistant:",
        "chosen": f" {p.good}",
        "rejected": f" {p.bad}",
    },
    "sharegpt": lambda p: {
        "conversations": [{"from": "human", "value": p.prompt}],
        "chosen": {"from": "gpt", "value": p.good},
        "rejected": {"from": "gpt", "value": p.bad},
    },
    "openai_preference": lambda p: {
        "input": {"messages": [p.user], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [p.say(p.good)],
        "non_preferred_output": [p.say(p.bad)],
    },
    "helpsteer3": lambda p: _two(
        "response1", "response2", p, context=[p.user], overall_preference=2
    ),
    "helpsteer2_preference": lambda p: _two(
        "response_1", "response_2", p, prompt=p.prompt, preference_strength=1
    ),
    "pku_safe_rlhf": lambda p: _two(
        "response_0", "response_1", p, prompt=p.prompt, better_response_id=1
    ),
    "shp": lambda p: _two("human_ref_A", "human_ref_B", p, history=p.prompt, labels=0),
    "chatbot_arena": lambda p: {
        "conversation_a": [p.user, p.say(p.bad)],
        "conversation_b": [p.user, p.say(p.good)],
        "winner": "model_b",
    },
    "arena_one_hot": lambda p: _two(
        "response_a", "response_b", p, prompt=p.prompt, winner_model_a=0, winner_model_b=1,
        winner_tie=0,
    ),
    "arena_turns": lambda p: {
        "prompt": json.dumps([p.prompt]), "response_a": json.dumps([p.bad]),
        "response_b": json.dumps([p.good]), "winner_model_a": 0, "winner_model_b": 1,
        "winner_tie": 0,
    },
    "arena_turns, lists": lambda p: {
        "prompt": [p.prompt], "response_a": [p.good], "response_b": [p.bad], "winner_model_a": 1,
        "winner_model_b": 0, "winner_tie": 0,
    },
    "two_responses, scores": lambda p: _two(
        "response_a", "response_b", p, prompt=p.prompt, score_a="1", score_b=2.5
    ),
    "two_responses, spaces": lambda p: _two(
        "Response A", "Response B", p, Prompt=p.prompt, Preference="Response B is better"
    ),
    "two_responses": lambda p: _two("response_a", "response_b", p, prompt=p.prompt, label="B"),
    "two_responses, arrows": lambda p: _two(
        "response_A", "response_B", p, question=p.prompt, label="B>A"
    ),
    "two_responses, numbers": lambda p: _two("answer1", "answer2", p, question=p.prompt, label=2),
    "messages": lambda p: {
        "messages": [p.user], "chosen": p.say(p.good), "rejected": p.say(p.bad),
    },
    "messages, context": lambda p: {
        "context": [{"from": "human", "content": p.prompt}],
        "chosen": [{"from": "gpt", "content": p.good}],
        "rejected": [{"from": "gpt", "content": p.bad}],
    },
    "messages_and_rejected": lambda p: {
        "messages": [p.user, p.say(p.good)], "rejected_response": p.bad,
    },
    "messages_and_rejected, whole": lambda p: {
        "messages": [p.user, p.say(p.good)], "rejected_messages": [p.user, p.say(p.bad)],
    },
    "reply_and_rejected": lambda p: {
        "query": p.prompt, "response": p.good, "rejected_response": p.bad,
    },
    "candidates": lambda p: {
        "messages": [
            p.user,
            {"role": "assistant", "candidates": [
                {"content": [{"text": p.bad}], "preferenceLabel": "non-preferred"},
                {"content": [{"text": p.good}], "preferenceLabel": "preferred"},
            ]},
        ],
    },
    "best_sample": lambda p: {
        "query": p.prompt, "sample0": p.bad, "sample1": p.good, "best": 1,
    },
    "ranked_responses": lambda p: {
        "prompt": p.prompt, "responses": [p.bad, p.good], "ranks": [2, 1],
    },
    "scored_completions, Gemini": lambda p: {
        "contents": [{"role": "user", "parts": [{"text": p.prompt}]}],
        "completions": [
            {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
            for score, text in ((0.0, p.bad), (1.0, p.good))
        ],
    },
    "scored_completions, ranks from 0": lambda p: {
        "context": [p.user],
        "completions": [
            {"rank": 0, "completion": [p.say(p.good)]}, {"rank": 1, "completion": [p.say(p.bad)]},
        ],
    },
    "alpaca_outputs": lambda p: {"instruction": p.prompt, "output": [p.good, p.bad]},
    "scored_responses": lambda p: {
        "prompt": p.prompt, "responses": [p.bad, p.good], "scores": [-1, 2.5],
    },
    "numbered_responses": lambda p: {
        "prompt": p.prompt, "response_1": p.bad, "response_2": p.good, "scores": [False, True],
    },
    "webgpt_comparisons": lambda p: _two(
        "answer_0", "answer_1", p, question={"full_text": p.prompt, "dataset": "x"}, score_0=-1.0,
        score_1=1.0,
    ),
    "stack_exchange_paired": lambda p: {
        "question": p.prompt, "response_j": p.good, "response_k": p.bad,
    },
    "nectar": lambda p: {
        "prompt": f"\n\nHuman: {p.prompt}\n\nAssistant: ",
        "answers": [{"answer": p.bad, "rank": 2.0}, {"answer": p.good, "rank": 1.0}],
    },
    "nectar, scores": lambda p: {
        "question": p.prompt,
        "answers": [
            {"text": p.bad, "pm_score": 0, "author": "x", "selected": False},
            {"text": p.good, "pm_score": 5, "author": "y", "selected": True},
        ],
        "date": "2020/01/01",
    },
    "scored_completions": lambda p: {
        "instruction": p.prompt,
        "completions": [
            {"response": p.bad, "overall_score": 1.5}, {"response": p.good, "overall_score": 4},
        ],
    },
    "stored": lambda p: {
        "line": 1, "prompt": [p.user], "chosen": [p.say(p.good)], "rejected": [p.say(p.bad)],
    },
    "stored_ranked": lambda p: {
        "line": 1,
        "prompt": p.prompt,
        "replies": [{"rank": 1, "reply": p.good}, {"rank": 2, "reply": p.bad}],
    },
}  # fmt: skip

# Letters keep a text from being a number, a dialogue or the beginning of another text.
texts = st.builds(
    lambda head, body, tail: f"{head}{body}{tail}",
    st.sampled_from("GHJ"),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20),
    st.sampled_from(["x", "y.", "z?"]),
).filter(lambda text: text == text.strip() and "\n\n" not in text)
drawn = st.lists(
    st.builds(lambda p, g, b: Drawn(f"P{p}", f"G{g}", f"B{b}"), texts, texts, texts),
    min_size=1,
    max_size=4,
)


def test_every_shape_has_a_writer() -> None:
    # The prompt of a summary is composed of several columns, and tested on its own.
    shapes = {shape.name for shape in SHAPES} - {"summarize_from_feedback"}
    assert {name.partition(",")[0] for name in WRITERS} == shapes


@pytest.mark.parametrize("name", WRITERS)
@settings(unhurried, max_examples=15)
@given(drawn)
def test_the_same_pairs_come_out_of_every_shape(name: str, pairs: list[Drawn]) -> None:
    rows, summary = read([WRITERS[name](pair) for pair in pairs])
    assert summary.shape == name.partition(",")[0]
    assert as_pairs(rows) == [
        ([pair.user], [pair.say(pair.good)], [pair.say(pair.bad)]) for pair in pairs
    ]
    assert [row["line"] for row in rows] == list(range(1, len(pairs) + 1))
    assert summary.pair_count == len(pairs)


# --- parts that only some shapes have -----------------------------------------------------------


def test_system_text_becomes_the_first_message() -> None:
    rows, summary = read(
        [
            {"system": "Be brief.", "question": "q1", "chosen": "a", "rejected": "b"},
            {"system": "", "question": "q2", "chosen": "a", "rejected": "b"},
        ]
    )
    assert [row["prompt"] for row in rows] == [
        [{"content": "Be brief.", "role": "system"}, {"content": "q1", "role": "user"}],
        [{"content": "q2", "role": "user"}],
    ]
    assert summary.format == "conversational"


def test_history_and_input_belong_to_the_prompt() -> None:
    rows, _ = read(
        [
            {
                "instruction": "Add.",
                "input": "1 and 2",
                "history": [["Hi", "Hello"]],
                "chosen": "3",
                "rejected": "4",
            }
        ]
    )
    assert rows[0]["prompt"] == [
        {"content": "Hi", "role": "user"},
        {"content": "Hello", "role": "assistant"},
        {"content": "Add.\n1 and 2", "role": "user"},
    ]


def test_sharegpt_tool_turns_become_tool_messages() -> None:
    rows, _ = read(
        [
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Add 1 and 2."},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                    {"from": "observation", "value": "3"},
                ],
                "tools": '[{"name": "add", "parameters": {}}]',
                "chosen": {"from": "gpt", "value": "3"},
                "rejected": {"from": "gpt", "value": "4"},
            }
        ]
    )
    call = {"function": {"arguments": {"a": 1}, "name": "add"}, "type": "function"}
    assert rows[0]["prompt"][2:] == [
        {"content": None, "role": "assistant", "tool_calls": [call]},
        {"content": "3", "role": "tool"},
    ]
    assert rows[0]["tools"] == [{"name": "add", "parameters": {}}]


def test_text_prompt_that_the_replies_repeat_is_kept_once() -> None:
    rows, _ = read(
        [
            {"prompt": "2+2?", "chosen": "2+2? It is 4.", "rejected": "2+2? It is 5."},
            {"prompt": "A prime?", "chosen": "A prime? 7.", "rejected": "A prime? 8."},
        ]
    )
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in rows] == [
        ("2+2?", " It is 4.", " It is 5."),
        ("A prime?", " 7.", " 8."),
    ]


def test_size_of_a_signed_label_is_the_margin_and_ties_are_skipped() -> None:
    def row(preference: int) -> dict[str, Any]:
        return {
            "context": [{"role": "user", "content": "q"}],
            "response1": "one",
            "response2": "two",
            "overall_preference": preference,
        }

    rows, summary = read([row(-3), row(0), row(1), row(0)])
    assert [(row["line"], row["margin"]) for row in rows] == [(1, 3.0), (3, 1.0)]
    assert rows[1]["chosen"][0]["content"] == "two"
    assert [(s.code, s.count, s.lines) for s in summary.skipped] == [("tie", 2, [2, 4])]
    assert [w.code for w in summary.warnings] == ["rows_skipped"]


def test_ranked_answers_keep_ranks_and_scores() -> None:
    completions = [
        {"response": "worst", "overall_score": 1},
        {"response": "best", "overall_score": 5},
        {"response": "second", "overall_score": 5},
        {"response": "best", "overall_score": 4},
    ]
    rows, summary = read([{"instruction": "q", "completions": completions}])
    assert rows[0]["replies"] == [
        {"rank": 1, "reply": "best", "score": 5.0},
        {"rank": 1, "reply": "second", "score": 5.0},
        {"rank": 2, "reply": "best", "score": 4.0},
        {"rank": 3, "reply": "worst", "score": 1.0},
    ]
    assert (summary.row_form, summary.row_count, summary.pair_count) == ("ranked", 1, 4)


@pytest.mark.parametrize(
    ("row", "code", "column"),
    [
        ({"answers": ["only"]}, "wrong_type", "answers"),
        ({"answers": [{"answer": "a"}, {"answer": "b"}]}, "invalid_ranks", "answers[0]"),
        (
            {"answers": [{"answer": "a", "rank": 1}, {"answer": "b", "score": 1}]},
            "invalid_ranks",
            "answers",
        ),
        (
            {"answers": [{"answer": "a", "rank": "x"}, {"answer": "b", "rank": 2}]},
            "invalid_ranks",
            "answers[0].rank",
        ),
        ({"answers": [{"rank": 1}, {"rank": 2}]}, "invalid_ranks", "answers[0]"),
        ({"answers": [str(n) for n in range(65)]}, "too_many_replies", "answers"),
        (
            {"answers": [{"answer": "a", "rank": 1, "system": "s"}, {"answer": "b", "rank": 2}]},
            "unused_column",
            "answers[0].system",
        ),
        ({"answers": ["a", "b"], "scores": [1]}, "invalid_ranks", "scores"),
        ({"answers": ["a", "b"], "scores": [1, "x"]}, "invalid_ranks", "scores[1]"),
        ({"answers": ["a", "b"], "scores": [1, 1]}, "empty_dataset", None),
    ],
)
def test_bad_ranks_are_told(row: dict[str, Any], code: str, column: str) -> None:
    found = refusal([{"prompt": "q"} | row]).rows[0]
    assert (found.code, found.column) == (code, column)


# --- column mapping -----------------------------------------------------------------------------


def mapped(columns: dict[str, str], **labels: str) -> ReadOptions:
    return ReadOptions(columns=columns, labels=labels)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        (
            {"frage": "P?", "gut": "G", "schlecht": "B"},
            mapped({"prompt": "frage", "chosen": "gut", "rejected": "schlecht"}),
        ),
        (
            {"frage": "P?", "chosen": "G", "rejected": "B"},
            mapped({"prompt": "frage"}),
        ),
        (
            {"info": {"post": "P?"}, "pair": {"good": "G", "bad": "B"}},
            mapped({"prompt": "info.post", "chosen": "pair.good", "rejected": "pair.bad"}),
        ),
        (
            {"q": "P?", "x": "B", "y": "G", "best": "y"},
            mapped({"prompt": "q", "response_a": "x", "response_b": "y", "label": "best"}),
        ),
        (
            {"q": "P?", "out_0": "B", "out_1": "G", "best": 1},
            mapped({"prompt": "q", "response_a": "out_0", "response_b": "out_1", "label": "best"}),
        ),
        (
            {"prompt": "P?", "x": "B", "y": "G", "flag": 0},
            mapped({"response_a": "x", "response_b": "y", "label": "flag"}, a="1", b="0", tie="2"),
        ),
        (
            {"prompt": "P?", "x": "B", "y": "G", "how": 2},
            mapped(
                {"response_a": "x", "response_b": "y", "label": "how"}, a="negative", b="positive"
            ),
        ),
        (
            {"q": "P?", "all": ["B", "G"], "points": [1, 2]},
            mapped({"prompt": "q", "answers": "all", "scores": "points"}),
        ),
        ({"q": "P?", "best_first": ["G", "B"]}, mapped({"prompt": "q", "answers": "best_first"})),
    ],
)
def test_mapped_columns_are_read(row: dict[str, Any], options: ReadOptions) -> None:
    rows, summary = read([row], options)
    assert summary.shape == "mapped"
    assert as_pairs(rows) == [
        ([{"content": "P?", "role": "user"}],
         [{"content": "G", "role": "assistant"}],
         [{"content": "B", "role": "assistant"}])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (mapped({"prompt": "nope"}), "unknown_column", "there is no such column"),
        (mapped({"answers": "q", "chosen": "q"}), "invalid_mapping", "exclude each other"),
        (mapped({"chosen": "a", "label": "q"}), "invalid_mapping", "exclude each other"),
        (mapped({"response_a": "a", "response_b": "b"}), "missing_column", "no column is label"),
        (mapped({"chosen": "a"}), "missing_column", "no column is rejected"),
        (
            mapped({"response_a": "a", "response_b": "b", "label": "n", "prompt": "q"}),
            "invalid_label",
            "does not name the better response",
        ),
        (mapped({"chosen": "a", "rejected": "b"}), "unused_column", '"q"'),
    ],
)
def test_mapping_that_does_not_fit_is_refused(options: ReadOptions, code: str, says: str) -> None:
    found = refusal([{"q": f"q{n}", "a": "a", "b": "b", "n": 1} for n in range(2)], options)
    assert found.rows[0].code == code
    assert says in found.rows[0].message


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (
            ("query", "good_reply", "bad_reply"),
            "columns[prompt]=query&columns[chosen]=good_reply&columns[rejected]=bad_reply",
        ),
        (
            ("problem", "preferred", "non_preferred"),
            "columns[prompt]=problem&columns[chosen]=preferred&columns[rejected]=non_preferred",
        ),
        (
            ("question", "text_a", "text_b", "choice"),
            "columns[prompt]=question&columns[response_a]=text_a"
            "&columns[response_b]=text_b&columns[label]=choice",
        ),
    ],
)
def test_unknown_shape_is_told_a_mapping_that_fits(columns: tuple[str, ...], mapping: str) -> None:
    rows = [{name: name if name != "choice" else "a" for name in columns}]
    found = refusal(rows).rows[0]
    assert found.code == "missing_column"
    assert all(f'"{name}"' in found.message for name in columns)
    assert mapping in found.hint
    given_parts = dict(part.split("=") for part in mapping.split("&"))
    options = mapped({key[8:-1]: column for key, column in given_parts.items()})
    assert read(rows, options)[1].pair_count == 1


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "response": "a", "helpfulness": 4},
        {"instruction": "q", "input": "", "output": "a"},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}], "label": False},
    ],
)
def test_single_replies_are_no_pairs(row: dict[str, Any]) -> None:
    found = refusal([row]).rows[0]
    assert "each row has one reply" in found.message
    assert "as chosen and rejected" in found.hint


def test_all_turns_of_an_arena_row_are_kept() -> None:
    row = {
        "prompt": '["q1", "q2"]', "response_a": '["a1", "a2"]', "response_b": '["b1", "b2"]',
        "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0,
    }  # fmt: skip
    rows, _ = read([row])
    texts = [message["content"] for message in rows[0]["prompt"] + rows[0]["chosen"]]
    assert texts == ["q1", "b1", "q2", "b2"]
    found = refusal([row, row | {"response_b": '["b1", null]'}]).rows[0]
    assert (found.line, found.column, found.code) == (2, "response_b", "wrong_type")
    found = refusal([row, row | {"response_a": '["a1"]'}]).rows[0]
    assert "1 replies to 2 prompts" in found.message


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        (
            {
                "q": "x",
                "task": "t",
                "candidates": [{"text": "a", "score": 2}, {"text": "b", "score": 1}],
            },
            "columns[prompt]=task&columns[answers]=candidates",
        ),
        (
            {"row_idx": 1, "row": {"prompt": "q", "chosen": "a", "rejected": "b"}},
            "columns[prompt]=row.prompt&columns[chosen]=row.chosen&columns[rejected]=row.rejected",
        ),
    ],
)
def test_mapping_of_nested_values_is_suggested(row: dict[str, Any], mapping: str) -> None:
    found = refusal([row]).rows[0]
    assert mapping in found.hint
    parts = dict(part.split("=") for part in mapping.split("&"))
    options = mapped({key[8:-1]: column for key, column in parts.items()})
    assert len(read([row], options)[0]) == 1


@pytest.mark.parametrize("role", ["model", "bot", "gpt"])
def test_other_names_of_the_assistant_are_known(role: str) -> None:
    user = {"role": "user", "content": "q"}
    rows, _ = read([{"prompt": [user], **{
        side: [{"role": role, "content": side}] for side in ("chosen", "rejected")
    }}])  # fmt: skip
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "chosen"}]


# --- skipped rows -------------------------------------------------------------------------------

GOOD_ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}
SKIP = ReadOptions(on_invalid="skip")


def test_invalid_rows_are_skipped_on_request_and_counted_by_reason() -> None:
    same, empty = GOOD_ROW | {"rejected": "a"}, GOOD_ROW | {"chosen": ""}
    rows, summary = read([GOOD_ROW, same, GOOD_ROW, empty, same, GOOD_ROW], SKIP)
    assert [row["line"] for row in rows] == [1, 3, 6]
    assert [(s.code, s.count, s.lines) for s in summary.skipped] == [
        ("identical_pair", 2, [2, 5]),
        ("empty_text", 1, [4]),
    ]
    assert summary.warnings[0].lines == [2, 4, 5]
    assert refusal([GOOD_ROW, same]).rows[0].code == "identical_pair"


def test_rows_without_a_margin_are_skipped_where_most_have_one() -> None:
    rows, summary = read([GOOD_ROW | {"margin": m} for m in (None, 1, 2)], SKIP)
    assert [row["margin"] for row in rows] == [1.0, 2.0]
    assert [s.code for s in summary.skipped] == ["mixed_margin"]


def test_upload_of_which_too_much_would_be_skipped_is_refused() -> None:
    same = GOOD_ROW | {"rejected": "a"}
    limits = ReadLimits(max_skipped_share=0.25)
    assert read([GOOD_ROW] * 3 + [same], SKIP, limits)[1].row_count == 3
    error = refusal([GOOD_ROW] * 2 + [same], SKIP, limits)
    assert error.rows[0].code == "too_many_skipped"
    assert "1 of 3 rows would be skipped (1 identical_pair)" in error.rows[0].message
    assert "25%" in error.rows[0].hint


def test_upload_without_a_usable_row_is_refused() -> None:
    error = refusal([GOOD_ROW | {"rejected": "a"}] * 3, SKIP)
    assert [row.code for row in error.rows] == ["empty_dataset"] + ["identical_pair"] * 3


@pytest.mark.parametrize(
    "turn",
    [
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>",
        "<s>[INST] Q [/INST]",
        "<bos><start_of_turn>user\nQ<end_of_turn>\n",
        "<|user|>\nQ</s>\n<|assistant|>\n",
        "<｜User｜>Q<｜Assistant｜>",
        "<|start|>user<|message|>Q<|end|>",
        "<|start_of_role|>user<|end_of_role|>Q<|end_of_text|>",
    ],
)
@pytest.mark.parametrize("has_prompt", [True, False])
def test_texts_that_are_rendered_already_are_recognised(turn: str, *, has_prompt: bool) -> None:
    replies = {"chosen": "good", "rejected": "bad"}
    if not has_prompt:
        replies = {side: turn + text for side, text in replies.items()}
    row = {"prompt": turn, **replies} if has_prompt else replies
    assert read([row] * 3)[1].is_rendered
    assert not read([GOOD_ROW] * 2 + [row | GOOD_ROW])[1].is_rendered


def test_ranked_rows_are_counted_by_the_pairs_that_they_give() -> None:
    rows = [{"instruction": f"q{n}", "output": [f"r{i}" for i in range(n)]} for n in (2, 4, 2)]
    assert read(rows)[1].rows_by_pairs == {1: 2, 6: 1}


# --- no text is dropped silently ----------------------------------------------------------------

names = st.sampled_from(sorted(MEANINGFUL)) | st.sampled_from(
    ["note", "hint", "extra", "Context", "prompt2", "images", "audio"]
)
carriers = st.sampled_from(
    [
        lambda text: text,
        lambda text: [text],
        lambda text: {"text": text},
        lambda text: [{"role": "user", "content": text}],
        lambda text: [{"from": "human", "value": text}],
    ]
)


@settings(unhurried, max_examples=200)
@given(st.sampled_from(sorted(WRITERS)), names, carriers, st.booleans())
def test_no_accepted_upload_loses_a_column_without_a_warning(
    shape: str, name: str, carrier: Callable[[str], Any], is_constant: bool
) -> None:
    rows = []
    for number in range(3):
        row = WRITERS[shape](Drawn(f"Prompt {number}?", f"Good {number}.", f"Bad {number}."))
        if name in row:
            return
        rows.append(row | {name: carrier(f"marker{0 if is_constant else number}")})
    _check_nothing_lost(rows, name)


@settings(unhurried, max_examples=100)
@given(names, st.sampled_from(["prompt", "chosen", "rejected"]), carriers, st.booleans())
def test_no_accepted_upload_loses_a_message_key_without_a_warning(
    name: str, side: str, carrier: Callable[[str], Any], is_constant: bool
) -> None:
    rows = []
    for number in range(3):
        drawn = Drawn(f"Prompt {number}?", f"Good {number}.", f"Bad {number}.")
        row = WRITERS["pairs, messages"](drawn)
        row[side][0][name] = carrier(f"marker{0 if is_constant else number}")
        rows.append(row)
    _check_nothing_lost(rows, name)


def _check_nothing_lost(rows: list[dict[str, Any]], name: str) -> None:
    assert not is_harmless(name)
    try:
        stored, summary = read(rows)
    except InvalidDatasetError:
        return
    is_warned = any(name in w.message for w in summary.warnings if w.code == "columns_ignored")
    assert is_warned or all("marker" in json.dumps(row) for row in stored)


@pytest.mark.parametrize(
    ("options", "kept"), [(ReadOptions(), None), (ReadOptions(columns={"id": "id"}), "7")], ids=str
)
def test_id_of_a_pair_is_kept_where_it_is_mapped(options: ReadOptions, kept: str | None) -> None:
    row = {"id": 7, "prompt": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5."}
    (stored,), _ = read([row], options)
    assert stored.get("id") == kept


@pytest.mark.parametrize(
    ("given", "kept"), [("ref:3", "ref:3"), (12, "12"), ("a\nb", None), ("x" * 129, None)]
)
def test_id_of_a_benchmark_row_is_kept_if_it_is_a_label(given: object, kept: str | None) -> None:
    row = {"id": given, "prompt": "q", "chosen": ["a"], "rejected": ["b", "c"], "subset": "Ties"}
    (stored,), _ = read([row])
    assert stored.get("id") == kept
