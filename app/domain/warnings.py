"""Warnings of jobs and dry runs: their codes, and what to do about each."""

from __future__ import annotations

from enum import StrEnum


class WarningCode(StrEnum):
    """Code of a warning. The values are stable: clients switch on them."""

    NOT_INSPECTED = "not_inspected"
    NOT_REPORTED = "not_reported"
    REPORT_SAMPLED = "report_sampled"
    COLUMNS_IGNORED = "columns_ignored"
    ROWS_SKIPPED = "rows_skipped"
    PROMPTS_DIFFER = "prompts_differ"
    PROMPT_UNUSED = "prompt_unused"
    DIFFERENCE_STRIPPED = "difference_stripped"
    SOURCES_ONE_SIDED = "sources_one_sided"
    PAIRS_DROPPED = "pairs_dropped"
    PAIRS_TRUNCATED = "pairs_truncated"
    PAIRS_IDENTICAL = "pairs_identical"
    PAIRS_REPEATED = "pairs_repeated"
    PAIRS_CONTRADICTORY = "pairs_contradictory"
    PROMPT_AND_REPLY_JOINED = "prompt_and_reply_joined"
    SPECIAL_TOKENS_IN_TEXT = "special_tokens_in_text"
    EVAL_LEAKED = "eval_leaked"
    EVAL_STEPS_UNREACHED = "eval_steps_unreached"
    TEXT_LEFT_OUT = "text_left_out"
    START_LEFT_OUT = "start_left_out"
    HEAD_UNUSED = "head_unused"
    TEMPLATE_DATE_FIXED = "template_date_fixed"
    TOKENIZER_FROM_FILE = "tokenizer_from_file"
    MEMORY_SHORT = "memory_short"
    STOPPED_EARLY = "stopped_early"
    BEST_STEP_PUBLISHED = "best_step_published"
    ENGINE_STOCK = "engine_stock"
    CHECKPOINT_REFUSED = "checkpoint_refused"
    MEMORY_ADAPTED = "memory_adapted"
    RESUMED_ELSEWHERE = "resumed_elsewhere"
    TRAINED_ON_CPU = "trained_on_cpu"


#: What to do about each warning.
WARNING_ADVICE: dict[WarningCode, str] = {
    WarningCode.NOT_INSPECTED: "No action needed: the warning disappears when a worker has "
    "inspected the base model.",
    WarningCode.NOT_REPORTED: "Request the report again when a worker is free.",
    WarningCode.REPORT_SAMPLED: "No action needed. Request the report again for the counts of all "
    "rows.",
    WarningCode.COLUMNS_IGNORED: "Map the columns with `columns[…]` if they belong to the pairs, "
    "and upload the file again.",
    WarningCode.ROWS_SKIPPED: "Correct the named lines and upload the file again, or accept the "
    "dataset without them.",
    WarningCode.PROMPTS_DIFFER: "Give both replies of a row the same prompt.",
    WarningCode.PROMPT_UNUSED: "Map the column with `columns[prompt]=…` if it holds the prompt of "
    "both replies, and upload the file again; otherwise give both replies the same prompt.",
    WarningCode.DIFFERENCE_STRIPPED: "Remove the named lines, or use a base model whose chat "
    "template keeps the difference.",
    WarningCode.SOURCES_ONE_SIDED: "Add rows in which the sources are the other way round.",
    WarningCode.PAIRS_DROPPED: "Raise training.max_length, set training.overlong to "
    '"truncate_left", or accept training without the named lines.',
    WarningCode.PAIRS_TRUNCATED: "Raise training.max_length, or accept prompts without their "
    "beginning. The adapter cuts texts in the same way when it scores.",
    WarningCode.PAIRS_REPEATED: "Remove the named lines, or accept that their pairs weigh more.",
    WarningCode.PAIRS_CONTRADICTORY: "Correct or remove the named lines: a model cannot learn both "
    "orders.",
    WarningCode.PAIRS_IDENTICAL: "Remove the named lines: pairs with equal replies teach nothing.",
    WarningCode.PROMPT_AND_REPLY_JOINED: 'Set training.text_format to "chat", or end the prompts '
    "with white space.",
    WarningCode.SPECIAL_TOKENS_IN_TEXT: "Remove the tokens from the text unless they are intended: "
    "the model reads them as control tokens, such as the end of a turn.",
    WarningCode.EVAL_LEAKED: "Remove the named lines from the evaluation dataset, or their prompts "
    "from the training dataset.",
    WarningCode.EVAL_STEPS_UNREACHED: "Lower training.eval_steps, or train for more steps.",
    WarningCode.TEXT_LEFT_OUT: "Ask the operator to add a chat_template to the catalogue entry "
    "that renders all of the text to be judged.",
    WarningCode.START_LEFT_OUT: "Ask the operator to add a chat_template to the catalogue entry "
    "that starts with the same tokens as other texts of the base model.",
    WarningCode.HEAD_UNUSED: 'Set base_model_head to "new" if scoring shall start random, or use a '
    "base model whose files have a head with one row.",
    WarningCode.TEMPLATE_DATE_FIXED: "Render conversations with the adapter's tokenizer when you "
    "score.",
    WarningCode.TOKENIZER_FROM_FILE: "Score with the adapter's tokenizer, not the base model's.",
    WarningCode.MEMORY_SHORT: "Lower training.max_length or training.per_device_batch_size, or use "
    "quantization.",
    WarningCode.STOPPED_EARLY: "No action needed: early_stopping works as the spec says.",
    WarningCode.BEST_STEP_PUBLISHED: "No action needed: with early_stopping the best model becomes "
    "the adapter.",
    WarningCode.ENGINE_STOCK: "No action needed: the job trains to the same loss as with the "
    "shared-prefix engine, only slower.",
    WarningCode.MEMORY_ADAPTED: "No action needed: loss and gradients are the same. A lower "
    "training.max_length avoids the repetition.",
    WarningCode.RESUMED_ELSEWHERE: 'No action needed. Set training.resume to "exact" if an adapter '
    "must have the bytes of an undisturbed run, even if training has to start again.",
    WarningCode.TRAINED_ON_CPU: "Use a worker with a GPU and resources.gpus 1, or precision auto.",
    WarningCode.CHECKPOINT_REFUSED: "No action needed. The operator should give all workers of a "
    "queue the same hardware and versions.",
}
