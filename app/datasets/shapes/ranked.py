"""Shapes with several replies to a prompt, sorted or with ranks or scores."""

from __future__ import annotations

from app.datasets.shapes.forms import Form
from app.datasets.shapes.numbered import NUMBERED, numbered_responses, with_responses
from app.datasets.shapes.shape import PROMPTS, SYSTEM, Parts, Shape

#: Columns with a list of responses.
_LISTS = ("responses", "completions", "answers", "generations", "candidates")

RANKED: tuple[Shape, ...] = (
    Shape(
        name="scored_responses",
        summary="A list of responses and a list of their scores; higher is better. Stored as "
        "ranked rows.",
        parts=Parts(
            prompt=PROMPTS,
            input=("input",),
            answers=_LISTS,
            scores=("scores", "rewards", "ratings"),
        ),
        lacks=("chosen", "rejected"),
        examples=(
            {
                "prompt": "What is 2+2?",
                "responses": ["It is 5.", "It is 4."],
                "scores": [0.1, 0.9],
            },
        ),
    ),
    Shape(
        name="ranked_responses",
        summary="A list of responses and a list of their ranks; lower is better. Stored as ranked "
        "rows.",
        parts=Parts(
            prompt=PROMPTS,
            input=("input",),
            answers=_LISTS,
            ranks=("ranks",),
        ),
        lacks=("chosen", "rejected"),
        examples=(
            {"prompt": "What is 2+2?", "responses": ["It is 5.", "It is 4."], "ranks": [2, 1]},
        ),
    ),
    Shape(
        name="numbered_responses",
        summary="Responses in the columns `response_1`, `response_2` … and a list of their "
        "`scores`, numbers or truth values; higher is better. Stored as ranked rows.",
        seen_in="lmarena-ai/PPE-MMLU-Pro-Best-of-K and its siblings for MATH, GPQA, IFEval and "
        "MBPP-Plus",
        parts=NUMBERED,
        find=numbered_responses,
        convert=with_responses,
        harmless=frozenset(
            {
                "High-level domain",
                "Record ID",
                "Subdomain",
                "canary_string",
                "choices",
                "code",
                "correct_choice",
                "ifeval_prompt",
                "instruction_id_list",
                "kwargs",
                "level",
                "options",
                "parsed_outputs",
                "problem",
                "sanitized_solution",
                "score_data",
                "solution",
                "source_file",
                "test",
                "test_imports",
                "test_list",
            }
        ),
        examples=(
            {
                "question_id": "1",
                "prompt": "What is 2+2?",
                "response_1": "It is 5.",
                "response_2": "It is 4.",
                "scores": [False, True],
                "sampled_conflict_pairs": [[1, 0]],
            },
        ),
    ),
    Shape(
        name="nectar",
        summary="Answers to one prompt with ranks (1 is the best) or scores. Stored as ranked "
        "rows.",
        seen_in="berkeley-nest/Nectar, HuggingFaceH4/stack-exchange-preferences",
        parts=Parts(prompt=PROMPTS, input=("input",), answers=("answers",)),
        harmless=frozenset(
            {"answers[].author", "answers[].author_profile", "date", "good_natured", "metadata"}
        ),
        examples=(
            {
                "prompt": "\n\nHuman: What is 2+2?\n\nAssistant: ",
                "answers": [
                    {"answer": "It is 4.", "model": "a", "rank": 1.0},
                    {"answer": "It is 5.", "model": "b", "rank": 2.0},
                    {"answer": "Who knows.", "model": "c", "rank": 3.0},
                ],
                "source": ["x"],
            },
        ),
    ),
    Shape(
        name="scored_completions",
        summary="Completions of one instruction with scores (higher is better) or ranks (lower is "
        "better). Stored as ranked rows.",
        seen_in="openbmb/UltraFeedback, the preference formats of NeMo RL and Vertex AI",
        parts=Parts(
            system=(*SYSTEM, "system_instruction", "systemInstruction"),
            prompt=PROMPTS,
            input=("input",),
            answers=("completions",),
        ),
        when=lambda sample: Form.TEXTS not in sample.forms("completions"),
        harmless=frozenset(
            {
                "completions[].annotations",
                "completions[].critique",
                "completions[].principle",
                "correct_answers",
                "incorrect_answers",
            }
        ),
        descriptive=frozenset({"completions[].custom_system_prompt"}),
        examples=(
            {
                "instruction": "What is 2+2?",
                "completions": [
                    {"response": "It is 4.", "overall_score": 8.5, "model": "a"},
                    {"response": "It is 5.", "overall_score": 2.0, "model": "b"},
                ],
            },
        ),
    ),
    Shape(
        name="alpaca_outputs",
        summary="`output` is a list of replies, best first. Stored as ranked rows.",
        seen_in="LLaMA-Factory's earlier preference format",
        parts=Parts(prompt=("instruction",), input=("input",), answers=("output",)),
        needs=("instruction",),
        when=lambda sample: Form.TEXTS in sample.forms("output"),
        examples=(
            {
                "instruction": "What is 2+2?",
                "input": "",
                "output": ["It is 4.", "It is 5."],
            },
        ),
    ),
)
