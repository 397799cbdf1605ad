"""Shapes with two responses and a label for the better one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from app.datasets.shapes.arena import ARENA
from app.datasets.shapes.example_messages import USER
from app.datasets.shapes.labels import (
    Label,
    Named,
    Scores,
    Signed,
    names_of_sides,
    read_number,
)
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import PROMPTS, Parts, Shape

_LABELS = ("winner", "label", "preference", "preferred", "better", "better_response", "choice")
_LABEL_NAMES = (*_LABELS, *(f"{name}.responses" for name in _LABELS))  # Argilla's exports
_STEMS = ("response", "answer", "completion", "output", "reply", "candidate", "summary",
          "generation", "conversation", "conv")  # fmt: skip
_ENDS = (("a", "b"), ("A", "B"), ("0", "1"), ("1", "2"))
_SCORES = ("score", "rating", "reward")


def _two_responses(sample: Sample) -> Parts | None:
    """Find columns such as response_a, response_b and winner; return None if there are none."""
    for stem, ends, separator in product(_STEMS, _ENDS, ("_", "")):
        a, b = (f"{stem}{separator}{end}" for end in ends)
        if sample.has(a) and sample.has(b):
            label: Label | None = None
            if not sample.has("chosen"):
                label = _two_scores(sample, stem, ends)
            if name := next(filter(sample.has, _LABEL_NAMES), None):
                label = Named(name, names_of_sides(a, b, sample.values(name)))
            if label is not None:
                return replace(_TWO, response_a=(a,), response_b=(b,), label=label)
    return None


def _two_scores(sample: Sample, stem: str, ends: tuple[str, str]) -> Scores | None:
    """Find a column of numbers for each response: score_a, response_a_score, response_score_a."""
    for score, separator in product(_SCORES, ("_", "")):
        for form in ("{s}{_}{e}", "{stem}{_}{e}_{s}", "{stem}_{s}{_}{e}", "{e}_{s}"):
            a, b = (form.format(s=score, stem=stem, e=end, _=separator) for end in ends)
            numbers = [read_number(each) for name in (a, b) for each in sample.values(name)]
            if sample.has(a) and sample.has(b) and numbers and None not in numbers:
                return Scores(a, b)
    return None


_TWO = Parts(
    prompt=PROMPTS,
    input=("input",),
    response_a=("response_a",),
    response_b=("response_b",),
    label=Named("winner"),
)

LABELLED: tuple[Shape, ...] = (
    Shape(
        name="helpsteer3",
        summary="Two responses to a context. The sign of `overall_preference` names the better one "
        "(negative: response1), its size becomes the margin; ties are skipped and counted.",
        seen_in="nvidia/HelpSteer3",
        parts=Parts(
            prompt=("context",),
            response_a=("response1",),
            response_b=("response2",),
            label=Signed("overall_preference"),
            margin=(),
        ),
        needs=("context",),
        harmless=frozenset({"individual_preference"}),
        examples=(
            {
                "domain": "general",
                "language": "english",
                "context": [USER],
                "response1": "It is 4.",
                "response2": "It is 5.",
                "overall_preference": -2,
                "individual_preference": [{"score": -2, "reasoning": "x", "feedback": "y"}],
            },
        ),
    ),
    Shape(
        name="helpsteer2_preference",
        summary="Two responses. The sign of `preference_strength` names the better one (negative: "
        "response_1), its size becomes the margin; ties are skipped and counted.",
        seen_in="nvidia/HelpSteer2, folder preference",
        parts=Parts(
            prompt=("prompt",),
            response_a=("response_1",),
            response_b=("response_2",),
            label=Signed("preference_strength"),
            margin=(),
        ),
        harmless=frozenset(
            {
                "all_preferences_unprocessed",
                "preference_elaboration",
                "preference_statement",
                "three_most_similar_preferences",
            }
        ),
        examples=(
            {
                "split": "train",
                "prompt": "What is 2+2?",
                "response_1": "It is 5.",
                "response_2": "It is 4.",
                "preference_strength": 3,
            },
        ),
    ),
    Shape(
        name="pku_safe_rlhf",
        summary="Two responses; `better_response_id` (0 or 1) is the number of the better one.",
        seen_in="PKU-Alignment/PKU-SafeRLHF",
        parts=Parts(
            prompt=("prompt",),
            response_a=("response_0",),
            response_b=("response_1",),
            label=Named("better_response_id", {"0": "a", "1": "b"}),
        ),
        harmless=frozenset(
            {
                "alpaca3_response_0",
                "prompt_source",
                "response_0_harm_category",
                "response_1_harm_category",
                "response_0_source",
                "response_1_source",
                "response_0_sha256",
                "response_1_sha256",
            }
        ),
        examples=(
            {
                "prompt": "What is 2+2?",
                "response_0": "It is 5.",
                "response_1": "It is 4.",
                "is_response_0_safe": True,
                "is_response_1_safe": True,
                "better_response_id": 1,
                "safer_response_id": 1,
            },
        ),
    ),
    Shape(
        name="shp",
        summary="A post (`history`) and two comments; `labels` is 1 if comment A is better, and 0 "
        "if comment B is.",
        seen_in="stanfordnlp/SHP",
        parts=Parts(
            history=(),
            prompt=("history",),
            response_a=("human_ref_A",),
            response_b=("human_ref_B",),
            label=Named("labels", {"1": "a", "0": "b"}),
        ),
        harmless=frozenset(
            {
                "c_root_id_A",
                "c_root_id_B",
                "created_at_utc_A",
                "created_at_utc_B",
                "score_A",
                "score_B",
                "seconds_difference",
                "upvote_ratio",
            }
        ),
        examples=(
            {
                "post_id": "x1",
                "history": "What is 2+2?",
                "human_ref_A": "It is 4.",
                "human_ref_B": "It is 5.",
                "labels": 1,
                "score_A": 9,
                "score_B": 2,
            },
        ),
    ),
    *ARENA,
    Shape(
        name="webgpt_comparisons",
        summary="Two answers with a score each; the higher score wins, ties are skipped and "
        "counted.",
        seen_in="openai/webgpt_comparisons",
        parts=Parts(
            prompt=("question.full_text", "question"),
            response_a=("answer_0",),
            response_b=("answer_1",),
            label=Scores("score_0", "score_1"),
        ),
        needs=("question",),
        harmless=frozenset(
            {"quotes_0", "quotes_1", "tokens_0", "tokens_1", "question.dataset", "question.id"}
        ),
        examples=(
            {
                "question": {"dataset": "x", "id": "1", "full_text": "What is 2+2?"},
                "answer_0": "It is 4.",
                "answer_1": "It is 5.",
                "score_0": 0.5,
                "score_1": -0.5,
            },
        ),
    ),
    Shape(
        name="two_responses",
        summary="Two responses (`response_a` and `response_b`, `answer_1` and `answer_2` …) and a "
        "column (`winner`, `label`, `preference` …) that names the better one: `a`, `b`, `tie`, "
        "the name of its column, the number in that name, or a phrase such as `Response A is "
        "better`. 0 and 1 do not name `response_a` and `response_b`: set "
        "`labels[a]=…&labels[b]=…`. Instead of that column, each response may have a score "
        "(`score_a`, `response_1_rating` …): the higher one wins.",
        parts=_TWO,
        find=_two_responses,
        harmless=frozenset({"judge"}),
        examples=(
            {
                "prompt": "What is 2+2?",
                "response_a": "It is 5.",
                "response_b": "It is 4.",
                "winner": "b",
            },
        ),
    ),
    Shape(
        name="stack_exchange_paired",
        summary="Two answers to a question; `response_j` is the better one.",
        seen_in="lvwerra/stack-exchange-paired",
        parts=Parts(prompt=("question",), chosen=("response_j",), rejected=("response_k",)),
        needs=("question",),
        harmless=frozenset({"metadata"}),
        examples=(
            {
                "qid": 1,
                "question": "What is 2+2?",
                "response_j": "It is 4.",
                "response_k": "It is 5.",
            },
        ),
    ),
)
