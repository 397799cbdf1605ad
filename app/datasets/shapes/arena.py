"""Shapes of chat arenas: two models answer a person, who votes."""

from __future__ import annotations

from app.datasets.shapes.example_messages import BAD, GOOD, USER
from app.datasets.shapes.forms import Form
from app.datasets.shapes.labels import Named, OneHot
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import Parts, Shape
from app.datasets.shapes.turns import are_turn_lists, with_conversations

_ONE_HOT = OneHot("winner_model_a", "winner_model_b", "winner_tie")


def _are_conversations(sample: Sample) -> bool:
    return Form.MESSAGES in sample.forms("conversation_a")


ARENA: tuple[Shape, ...] = (
    Shape(
        name="chatbot_arena",
        summary="Two whole conversations and the `winner`: `model_a`, `model_b` or a tie; ties are "
        "skipped and counted.",
        seen_in="lmsys/chatbot_arena_conversations, lmarena-ai/arena-human-preference-100k",
        parts=Parts(
            prompt=("prompt",),
            response_a=("conversation_a",),
            response_b=("conversation_b",),
            label=Named("winner"),
        ),
        when=_are_conversations,
        harmless=frozenset(
            {
                "category_tag",
                "conv_metadata",
                "judge",
                "openai_moderation",
                "toxic_chat_tag",
                "dedup_tag",
            }
        ),
        examples=(
            {
                "question_id": "q1",
                "model_a": "a",
                "model_b": "b",
                "winner": "model_a",
                "conversation_a": [USER, GOOD],
                "conversation_b": [USER, BAD],
                "language": "English",
            },
        ),
    ),
    Shape(
        name="arena_turns",
        summary="Lists of prompts and of the replies to each, also as JSON text, and a column for "
        "each outcome. They become two conversations; ties are skipped and counted.",
        seen_in="lmarena-ai/arena-human-preference-55k",
        parts=Parts(
            prompt=(),
            response_a=("response_a",),
            response_b=("response_b",),
            label=_ONE_HOT,
        ),
        needs=("prompt",),
        when=are_turn_lists,
        convert=with_conversations,
        examples=(
            {
                "id": 1,
                "model_a": "a",
                "model_b": "b",
                "prompt": '["What is 2+2?"]',
                "response_a": '["It is 4."]',
                "response_b": '["It is 5."]',
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            },
        ),
    ),
    Shape(
        name="arena_one_hot",
        summary="Two responses and a column for each outcome; ties are skipped and counted.",
        parts=Parts(
            prompt=("prompt",),
            response_a=("response_a",),
            response_b=("response_b",),
            label=_ONE_HOT,
        ),
        examples=(
            {
                "id": 1,
                "model_a": "a",
                "model_b": "b",
                "prompt": "What is 2+2?",
                "response_a": "It is 4.",
                "response_b": "It is 5.",
                "winner_model_a": 1,
                "winner_model_b": 0,
                "winner_tie": 0,
            },
        ),
    ),
)
