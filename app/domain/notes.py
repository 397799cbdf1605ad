"""What a job is told that stops nobody: a code each, and what may be done about it."""

from __future__ import annotations

from enum import StrEnum


class NoteCode(StrEnum):
    """Stable: clients switch on it."""

    NOT_INSPECTED = "not_inspected"
    NOT_REPORTED = "not_reported"
    COLUMNS_IGNORED = "columns_ignored"
    ROWS_SKIPPED = "rows_skipped"
    PROMPTS_DIFFER = "prompts_differ"
    DIFFERENCE_STRIPPED = "difference_stripped"
    SOURCES_ONE_SIDED = "sources_one_sided"
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
NOTES: dict[NoteCode, str] = {
    NoteCode.NOT_INSPECTED: "Nothing: the warning goes once a worker has looked at the base model.",
    NoteCode.NOT_REPORTED: "Ask again when a worker is free.",
    NoteCode.COLUMNS_IGNORED: "Map the columns with `columns[…]` if they belong to the pairs, and "
    "upload the file again.",
    NoteCode.ROWS_SKIPPED: "Correct the named lines and upload the file again, or be content "
    "without them.",
    NoteCode.PROMPTS_DIFFER: "Give both replies of a row the same prompt.",
    NoteCode.DIFFERENCE_STRIPPED: "Take the named lines out, or use a base model whose chat "
    "template keeps the difference.",
    NoteCode.SOURCES_ONE_SIDED: "Mix in rows in which the sources are the other way round.",
    NoteCode.PAIRS_DROPPED: "Raise training.max_length, or be content without the named lines.",
    NoteCode.PAIRS_IDENTICAL: "Take the named lines out: nothing can be learned from them.",
    NoteCode.SPECIAL_TOKENS_IN_TEXT: "Take them out of the text where they are not meant: they "
    "end turns, or worse.",
    NoteCode.EVAL_LEAKED: "Take the named lines out of the eval dataset, or the prompts out of "
    "the training dataset.",
    NoteCode.EVAL_STEPS_UNREACHED: "Lower training.eval_steps, or train for longer.",
    NoteCode.TEXT_LEFT_OUT: "Have the operator give the catalogue entry a chat_template that keeps "
    "what is to be judged.",
    NoteCode.START_LEFT_OUT: "Have the operator give the catalogue entry a chat_template that "
    "begins as the base model's texts do.",
    NoteCode.TEMPLATE_DATE_FIXED: "Render with the adapter's tokenizer when you score.",
    NoteCode.TOKENIZER_FROM_FILE: "Score with the adapter's tokenizer, not the base model's.",
    NoteCode.MEMORY_SHORT: "Lower training.max_length or training.per_device_batch_size, or use "
    "quantization.",
    NoteCode.ENGINE_STOCK: "Nothing: it is trained as `trl reward` would, only slower.",
    NoteCode.CHECKPOINT_REFUSED: "Nothing; the operator may want the workers of a queue alike.",
}
