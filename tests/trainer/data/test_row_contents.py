"""Tools, tool calls, reasoning and ranked replies: rendered, or refused by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from app.domain.lifecycle import FailureCode
from app.domain.rows import RESERVED_TEMPLATE_VARIABLES, ranked_pairs
from tests.model_factories.orders import TinyBase
from tests.model_factories.pairs import write_rows
from tests.model_factories.tokenized import make_pair_tokenizer
from tests.trainer.data.test_pairs import refusal
from worker.reward_model.errors import TrainerError
from worker.trainer.data.pairs import tokenize_pairs
from worker.trainer.data.tokenized_rows import PairFile

USER = {"content": "please add 1 and 2 ?", "role": "user"}
GOOD = {"content": "the answer is 3 .", "role": "assistant"}
BAD = {"content": "the answer is 4 .", "role": "assistant"}
PAIR: dict[str, Any] = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "line": 1}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"function": {"arguments": {"a": 1}, "name": "add"}, "type": "function"}
CALLS = {"content": None, "role": "assistant", "tool_calls": [CALL]}
#: Shows all that a row can hold.
WHOLE = (
    "{% for t in tools or [] %}tool {{ t.function.name }} {% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.reasoning_content or '' }}|{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}call {{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}{{ ending or '' }}"
)
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% endfor %}"


def test_tools_and_calls_and_variables_reach_the_chat_template(llama: TinyBase) -> None:
    row = PAIR | {"chosen": [CALLS], "tools": [ADD], "chat_template_kwargs": {"ending": "!"}}
    texts = make_pair_tokenizer(llama, [PAIR], chat_template=WHOLE).render(row)
    assert texts == [
        'tool add <user>|please add 1 and 2 ?<assistant>|call add {"a": 1}!',
        "tool add <user>|please add 1 and 2 ?<assistant>|the answer is 4 .!",
    ]


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_comes_under_the_name_that_the_template_reads(llama: TinyBase, name: str) -> None:
    template = WHOLE.replace("reasoning_content", name)
    row = PAIR | {"chosen": [GOOD | {"reasoning_content": "one more than two"}]}
    texts = make_pair_tokenizer(llama, [PAIR], chat_template=template).render(row)
    assert "<assistant>one more than two|the answer is 3 ." in texts[0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (PAIR | {"tools": [ADD]}, "leaves out the tools, 'add' for one"),
        (PAIR | {"chosen": [CALLS]}, "leaves out the tool calls, 'add' for one"),
        (
            PAIR
            | {
                "chosen": [GOOD | {"reasoning_content": "good"}],
                "rejected": [GOOD | {"reasoning_content": "bad"}],
            },
            "leaves out the reasoning, which alone tells the replies apart",
        ),
    ],
)
def test_row_that_the_template_cannot_show_is_refused_by_name(
    llama: TinyBase, tmp_path: Path, row: dict[str, Any], says: str
) -> None:
    detail = refusal(llama, [PAIR, row | {"line": 7}], tmp_path, chat_template=PLAIN)
    assert detail.startswith("line 7: ")
    assert says in detail


def test_ranked_row_is_refusal(llama: TinyBase, tmp_path: Path) -> None:
    replies = [{"rank": 1, "reply": [GOOD]}, {"rank": 2, "reply": [BAD]}]
    ranked = {"line": 3, "prompt": [USER], "replies": replies}
    file = PairFile(write_rows(tmp_path / "rows.jsonl", [ranked]))
    with pytest.raises(TrainerError, match="line 3 holds ranked replies") as failure:
        tokenize_pairs(file, make_pair_tokenizer(llama, [PAIR]))
    assert failure.value.code is FailureCode.DATASET_INVALID


def test_pairs_of_a_ranked_row_leave_out_ties_and_equal_texts() -> None:
    replies = [
        {"rank": 1, "reply": "a"},
        {"rank": 1, "reply": "b"},
        {"rank": 2, "reply": "a"},
        {"rank": 3, "reply": "c"},
    ]
    assert list(ranked_pairs({"replies": replies})) == [(0, 3), (1, 2), (1, 3), (2, 3)]


def test_uploads_can_set_no_parameter_of_the_renderer() -> None:
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert parameters.keys() <= RESERVED_TEMPLATE_VARIABLES
