"""Table of recognised shapes, from the most specific to the most general.

``docs/data.md`` is generated from it, and the tests convert the same pairs to each of its shapes.
"""

from __future__ import annotations

from dataclasses import replace

from app.datasets.shapes.beside import BESIDE
from app.datasets.shapes.chosen_of_several import CHOSEN_OF_SEVERAL
from app.datasets.shapes.example_messages import BAD, GOOD, USER
from app.datasets.shapes.forms import Form
from app.datasets.shapes.labelled import LABELLED
from app.datasets.shapes.ranked import RANKED
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import PART_NAMES, Parts, Shape
from app.datasets.shapes.stored import STORED

_SHAREGPT = ("conversations", "conversation", "trajectory")
#: Names of a prompt that is a list of messages.
_MESSAGES = ("messages", "context", "contents")
#: Chosen and rejected replies in the columns with the usual names.
_SIDED = Parts(prompt=("prompt",), chosen=("chosen",), rejected=("rejected",))


def _has_dialogues(sample: Sample) -> bool:
    columns = ("prompt", "chosen", "rejected")
    return any(Form.DIALOGUE in sample.forms(column) for column in columns)


def _are_lists_of_replies(sample: Sample) -> bool:
    forms = sample.forms("chosen") | sample.forms("rejected")
    return bool(forms & {Form.TEXTS, Form.CONVERSATIONS})


def _has_conversations(sample: Sample) -> bool:
    return Form.MESSAGES in sample.forms("chosen")


def _messages_ask(sample: Sample) -> bool:
    """Return whether the last messages are not by the assistant, so that a reply must follow."""
    column = next(filter(sample.has, _MESSAGES), "")
    lists = [value for value in sample.values(column) if isinstance(value, list) and value]
    last = [value[-1] for value in lists if isinstance(value[-1], dict)]
    return bool(last) and all(
        message.get("role", message.get("from")) not in ("assistant", "gpt") for message in last
    )


SHAPES: tuple[Shape, ...] = (
    *STORED,
    Shape(
        name="openai_preference",
        summary="OpenAI's preference fine-tuning: `input` has the conversation and the tools.",
        parts=Parts(
            system=(),
            history=(),
            prompt=("input.messages",),
            tools=("input.tools",),
            chosen=("preferred_output",),
            rejected=("non_preferred_output",),
        ),
        needs=("input",),
        harmless=frozenset({"input.parallel_tool_calls"}),
        examples=(
            {
                "input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [GOOD],
                "non_preferred_output": [BAD],
            },
        ),
    ),
    *LABELLED,
    *CHOSEN_OF_SEVERAL,
    *RANKED,
    *BESIDE,
    Shape(
        name="sharegpt",
        summary="ShareGPT turns (`from`, `value`) with one chosen and one rejected turn.",
        seen_in="LLaMA-Factory's ShareGPT preference format, openbmb/UltraInteract_pair",
        parts=replace(_SIDED, prompt=_SHAREGPT),
        lacks=("prompt",),
        when=lambda sample: any(map(sample.has, _SHAREGPT)),
        examples=(
            {
                "conversations": [{"from": "human", "value": "What is 2+2?"}],
                "chosen": {"from": "gpt", "value": "It is 4."},
                "rejected": {"from": "gpt", "value": "It is 5."},
            },
        ),
    ),
    Shape(
        name="messages",
        summary="The prompt is a list of `messages`, also called `context` or `contents`, that "
        "ends before the reply.",
        seen_in="LLaMA-Factory's OpenAI preference format, nvidia/When2Call, ColossalAI",
        parts=Parts(
            prompt=_MESSAGES,
            chosen=("chosen", "chosen_response"),
            rejected=("rejected", "rejected_response"),
        ),
        lacks=("prompt",),
        when=_messages_ask,
        examples=({"messages": [USER], "chosen": GOOD, "rejected": BAD},),
    ),
    Shape(
        name="orca",
        summary="The prompt is called `question` or `query`; `system` becomes the system message.",
        seen_in="Intel/orca_dpo_pairs",
        parts=replace(_SIDED, prompt=("question", "query")),
        lacks=("prompt",),
        when=lambda sample: any(map(sample.has, ("question", "query"))),
        examples=(
            {
                "system": "You are helpful.",
                "question": "What is 2+2?",
                "chosen": "It is 4.",
                "rejected": "It is 5.",
            },
        ),
    ),
    Shape(
        name="alpaca",
        summary="`instruction` and `input` are joined with a newline and become the prompt; "
        "`system` and `history` become messages before it.",
        seen_in="LLaMA-Factory's Alpaca preference format",
        parts=Parts(
            prompt=("instruction",),
            input=("input",),
            chosen=("chosen", "chosen_response"),
            rejected=("rejected", "rejected_response"),
        ),
        needs=("instruction",),
        lacks=("prompt",),
        examples=(
            {
                "instruction": "Add the numbers.",
                "input": "2 and 2",
                "chosen": "It is 4.",
                "rejected": "It is 5.",
            },
        ),
    ),
    Shape(
        name="distilabel",
        summary="The prompt is called `input`; `system` becomes the system message.",
        seen_in="argilla/distilabel-intel-orca-dpo-pairs",
        parts=replace(_SIDED, prompt=("input",)),
        needs=("input",),
        lacks=("prompt",),
        harmless=frozenset(
            {
                "generations",
                "labelling_prompt",
                "order",
                "original_chosen",
                "original_rejected",
                "rationale",
                "raw_labelling_response",
                "status",
            }
        ),
        examples=(
            {"system": "", "input": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5."},
        ),
    ),
    Shape(
        name="rewardbench2",
        summary="Lists of chosen and rejected replies; `subset` becomes the slice, `id` is kept. "
        "Stored as ranked rows in which every chosen reply is better than every rejected one.",
        seen_in="allenai/reward-bench-2, THU-KEG/RM-Bench",
        parts=replace(_SIDED, slice=("slice", "subset"), id=("id",)),
        when=_are_lists_of_replies,
        harmless=frozenset({"additional_metadata"}),
        examples=(
            {
                "id": "0",
                "prompt": "What is 2+2?",
                "chosen": ["It is 4."],
                "rejected": ["It is 5.", "Who knows."],
                "subset": "Factuality",
            },
        ),
    ),
    Shape(
        name="hh_rlhf",
        summary="`Human:` and `Assistant:` turns in text; they become messages.",
        seen_in="Anthropic/hh-rlhf, Dahoas/full-hh-rlhf",
        parts=_SIDED,
        when=_has_dialogues,
        examples=(
            {
                "chosen": "\n\nHuman: What is 2+2?\n\nAssistant: It is 4.",
                "rejected": "\n\nHuman: What is 2+2?\n\nAssistant: It is 5.",
            },
            {
                "prompt": "\n\nHuman: What is 2+2?\n\nAssistant:",
                "chosen": " It is 4.",
                "rejected": " It is 5.",
            },
        ),
    ),
    Shape(
        name="rewardbench",
        summary="A prompt, two replies and a `subset`, which becomes the slice.",
        seen_in="allenai/reward-bench",
        parts=replace(_SIDED, slice=("subset",)),
        needs=("prompt", "subset"),
        lacks=("slice",),
        examples=(
            {
                "prompt": "What is 2+2?",
                "chosen": "It is 4.",
                "chosen_model": "a",
                "rejected": "It is 5.",
                "rejected_model": "b",
                "subset": "alpacaeval-easy",
                "id": 0,
            },
        ),
    ),
    Shape(
        name="ultrafeedback_binarized",
        summary="A text prompt and whole conversations that begin with it; the prompt is stored "
        "once.",
        seen_in="HuggingFaceH4/ultrafeedback_binarized, allenai/llama-3.1-tulu-3-8b-preference-"
        "mixture",
        parts=_SIDED,
        when=lambda sample: Form.TEXT in sample.forms("prompt") and _has_conversations(sample),
        examples=(
            {
                "prompt": "What is 2+2?",
                "prompt_id": "abc0",
                "chosen": [USER, GOOD],
                "rejected": [USER, BAD],
                "messages": [USER, GOOD],
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            },
        ),
    ),
    Shape(
        name="conversations",
        summary="Two whole conversations; the messages that both begin with are the prompt.",
        seen_in="Skywork/Skywork-Reward-Preference-80K-v0.2, argilla/dpo-mix-7k, "
        "trl-lib/ultrafeedback_binarized",
        parts=_SIDED,
        when=lambda sample: not sample.forms("prompt") and _has_conversations(sample),
        examples=({"chosen": [USER, GOOD], "rejected": [USER, BAD], "source": "magpie_ultra"},),
    ),
    Shape(
        name="pairs",
        summary="A prompt, a chosen and a rejected reply: text or messages in each. `system` and "
        "`history` become messages before the prompt.",
        parts=_SIDED,
        examples=(
            {"prompt": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5."},
            {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
            {
                "system": "Be short.",
                "prompt": "What is 2+2?",
                "chosen": "It is 4.",
                "rejected": "It is 5.",
            },
            {"prompt": "What is 2+2?", "chosen": GOOD, "rejected": BAD},
        ),
    ),
)

#: Every column that any shape reads, or that a mapping uses by its own name.
USED_COLUMNS = frozenset(
    column.partition(".")[0]
    for shape in SHAPES
    for column in (
        *(path for name in PART_NAMES for path in getattr(shape.parts, name)),
        *(shape.parts.label.columns if shape.parts.label else ()),
        *shape.needs,
    )
)
