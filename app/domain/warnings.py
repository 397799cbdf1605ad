"""What a job is told that stops nobody: a code each, and what may be done about it."""

from __future__ import annotations

from enum import StrEnum


class WarningCode(StrEnum):
    """Stable: clients switch on it."""

    NOT_INSPECTED = "not_inspected"
    NOT_REPORTED = "not_reported"
    PAIRS_DROPPED = "pairs_dropped"
    PAIRS_IDENTICAL = "pairs_identical"
    SPECIAL_TOKENS_IN_TEXT = "special_tokens_in_text"
    EVAL_LEAKED = "eval_leaked"
    EVAL_STEPS_UNREACHED = "eval_steps_unreached"
    TEXT_LEFT_OUT = "text_left_out"
    START_LEFT_OUT = "start_left_out"
    TEMPLATE_DATE_FIXED = "template_date_fixed"
    TOKENIZER_FROM_FILE = "tokenizer_from_file"
    MEMORY_SHORT = "memory_short"
    ENGINE_STOCK = "engine_stock"
    CHECKPOINT_REFUSED = "checkpoint_refused"


#: For people: what to do next.
WARNING_ADVICE: dict[WarningCode, str] = {
    WarningCode.NOT_INSPECTED: "Nothing: it is removed when a worker has inspected the base model.",
    WarningCode.NOT_REPORTED: "Ask again when a worker is free.",
    WarningCode.PAIRS_DROPPED: "Raise training.max_length, or be content without the named lines.",
    WarningCode.PAIRS_IDENTICAL: "Take the named lines out: nothing can be learned from them.",
    WarningCode.SPECIAL_TOKENS_IN_TEXT: "Take them out of the text where they are not meant: they "
    "end turns, or worse.",
    WarningCode.EVAL_LEAKED: "Take the named lines out of the eval dataset, or the prompts out of "
    "the training dataset.",
    WarningCode.EVAL_STEPS_UNREACHED: "Lower training.eval_steps, or train for longer.",
    WarningCode.TEXT_LEFT_OUT: "Have the operator give the catalogue entry a chat_template "
    "that keeps what is to be judged.",
    WarningCode.START_LEFT_OUT: "Have the operator give the catalogue entry a chat_template "
    "that begins as the base model's texts do.",
    WarningCode.TEMPLATE_DATE_FIXED: "Render with the adapter's tokenizer when you score.",
    WarningCode.TOKENIZER_FROM_FILE: "Score with the adapter's tokenizer, not the base model's.",
    WarningCode.MEMORY_SHORT: "Lower training.max_length or training.per_device_batch_size, or use "
    "quantization.",
    WarningCode.ENGINE_STOCK: "Nothing: it is trained as `trl reward` would, only slower.",
    WarningCode.CHECKPOINT_REFUSED: "Nothing; the operator may want the workers of a queue alike.",
}
