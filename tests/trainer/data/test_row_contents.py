"""Tools, tool calls, reasoning and ranked replies are rendered, or rejected with their names."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from app.domain.rows import RESERVED_TEMPLATE_VARIABLES, ranked_pairs
from app.domain.text_format import DataForm
from tests.model_factories.architectures import make_base_model
from tests.model_factories.orders import TinyBase, make_plan
from tests.model_factories.pairs import TOPICS, make_pairs, write_rows
from tests.model_factories.tokenized import make_pair_tokenizer, tokenize_rows
from tests.trainer.data.test_pairs import refusal
from worker.reward_model.errors import TrainerError
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.pair_table import Pair
from worker.trainer.data.pairs import TokenizedPairs, split_by_prompt, tokenize_pairs
from worker.trainer.data.tokenized_file import PairFile
from worker.trainer.evaluation.metrics import compute_metrics
from worker.trainer.evaluation.scores import Scores

ASSISTANT = {"role": "assistant"}
USER = {"content": "please add 1 and 2 ?", "role": "user"}
GOOD = {"content": "the answer is 3 .", "role": "assistant"}
BAD = {"content": "the answer is 4 .", "role": "assistant"}
PAIR: dict[str, Any] = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "line": 1}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"function": {"arguments": {"a": 1}, "name": "add"}, "type": "function"}
CALLS = {"content": None, "role": "assistant", "tool_calls": [CALL]}
#: Renders all parts of a row.
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
        (PAIR | {"tools": [ADD]}, "leaves out tools, such as 'add'"),
        (PAIR | {"chosen": [CALLS]}, "leaves out tool calls, such as 'add'"),
        (
            PAIR
            | {
                "chosen": [GOOD | {"reasoning_content": "good"}],
                "rejected": [GOOD | {"reasoning_content": "bad"}],
            },
            "leaves out the reasoning, the only difference of the replies",
        ),
    ],
)
def test_row_that_the_template_cannot_show_is_refused_by_name(
    llama: TinyBase, tmp_path: Path, row: dict[str, Any], says: str
) -> None:
    detail = refusal(llama, [PAIR, row | {"line": 7}], tmp_path, chat_template=PLAIN)
    assert detail.startswith("line 7: ")
    assert says in detail


def ranked_rows(count: int, replies: int = 4) -> list[dict[str, Any]]:
    """Rows with separate prompts; every reply is worse than the one before."""
    return [
        {
            "line": line,
            "prompt": [{"content": f"please tell me about {topic} ?", "role": "user"}],
            "replies": [
                {"rank": rank, "reply": [{"content": f"the answer {'very ' * rank}", **ASSISTANT}]}
                for rank in range(1, replies + 1)
            ],
        }
        for line, topic in enumerate(TOPICS[:count], 1)
    ]


def ranked_pairs_of(
    base: TinyBase, folder: Path, rows: list[dict[str, Any]], count: int | None = None
) -> TokenizedPairs:
    path = write_rows(folder / "rows.jsonl", rows)
    file = PairFile(path, pairs_per_row=count, seed=3)
    return tokenize_pairs(file, make_pair_tokenizer(base, rows))


def test_ranked_row_gives_the_pairs_that_its_ranks_order(llama: TinyBase, tmp_path: Path) -> None:
    rows = ranked_rows(2)
    pairs = ranked_pairs_of(llama, tmp_path, rows).pairs
    every = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [(pair.line, pair.replies) for pair in pairs] == [(n, p) for n in (1, 2) for p in every]
    tokenizer = make_pair_tokenizer(llama, rows)
    texts = tokenizer.render(rows[0])
    for pair in pairs[:6]:
        assert pair.replies is not None
        better, worse = tokenizer.encode([texts[index] for index in pair.replies])
        assert (pair.chosen.tolist(), pair.rejected.tolist()) == (better, worse)


def test_drawn_pairs_are_the_same_each_time_and_spread(llama: TinyBase, tmp_path: Path) -> None:
    rows = ranked_rows(12)
    tokenized = ranked_pairs_of(llama, tmp_path, rows, count=2)
    drawn = [(pair.line, pair.replies) for pair in tokenized.drawn]
    assert len(tokenized.pairs) == 12 * 6
    assert [line for line, _ in drawn] == [line for line in range(1, 13) for _ in range(2)]
    again = ranked_pairs_of(llama, tmp_path, rows, count=2)
    assert [(pair.line, pair.replies) for pair in again.drawn] == drawn
    assert len({replies for _, replies in drawn}) > 3


def test_split_holds_out_all_pairs_of_a_ranked_row(llama: TinyBase, tmp_path: Path) -> None:
    pairs = ranked_pairs_of(llama, tmp_path, ranked_rows(8), count=1)
    train, held_out = split_by_prompt(pairs, 0.25, seed=1)
    assert len(train) == 6
    assert len(held_out) == 2 * 6
    assert {pair.line for pair in train}.isdisjoint(pair.line for pair in held_out)


def test_best_of_n_counts_rows_whose_best_reply_scores_highest() -> None:
    def pair(line: int, better: int, worse: int) -> Pair:
        ids = np.zeros(1, dtype=np.int32)
        return Pair(line, ids, ids, None, None, bytes(line), (better, worse))

    # Rewards by reply: row 1 is right, row 2 wrong, in row 3 a best and a worse reply are tied.
    rewards = {1: (3.0, 2.0, 1.0), 2: (1.0, 2.0, 0.0), 3: (2.0, 2.0, 0.0)}
    pairs = [pair(line, *p) for line in rewards for p in ((0, 1), (0, 2), (1, 2))]
    sides = [[rewards[p.line][p.replies[side]] for p in pairs] for side in (0, 1)]  # type: ignore[index]
    scores = Scores(pairs, np.array(sides[0]), np.array(sides[1]))
    metrics = compute_metrics(scores, centering=None, seed=0)
    assert metrics["best_of_n"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert metrics["accuracy"] == pytest.approx((3 + 2 + 2.5) / 9)


# --- texts as turns of a chat -------------------------------------------------------------------


def text_of(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "line": row["line"],
        "prompt": f" {row['prompt'][-1]['content']}\n",
        "chosen": row["chosen"][0]["content"],
        "rejected": f" {row['rejected'][0]['content']}",
    }


def test_texts_become_the_turns_of_a_chat(llama: TinyBase, tmp_path: Path) -> None:
    texts = [text_of(row) for row in make_pairs(5)]
    form = DataForm(has_texts=True)
    plan = make_plan(llama.facts, texts, form=form)
    assert (plan.data.format, plan.tokenization.text_format) == ("conversational", "chat")
    tokenizer = PairTokenizer(llama.directory, plan.tokenization, plan.data.format)
    found = tokenize_pairs(PairFile(write_rows(tmp_path / "rows.jsonl", texts)), tokenizer)
    same = tokenize_rows(llama, make_pairs(5), tmp_path)
    assert [(p.chosen.tolist(), p.rejected.tolist(), p.prompt) for p in found.pairs] == [
        (p.chosen.tolist(), p.rejected.tolist(), p.prompt) for p in same.pairs
    ]
    assert found.with_joined_words.lines == []


@pytest.mark.parametrize(
    ("prompt", "reply", "is_joined"),
    [
        ("the answer ?", "tea .", True),
        ("the answer ? ", "tea .", False),
        ("the answer ?", "\ntea .", False),
        ("the answer ?<|im_end|>", "tea .", False),
        ("the answer ?", "<|im_start|>tea .", False),
    ],
)
def test_raw_texts_that_meet_without_white_space_are_noted(
    llama: TinyBase, tmp_path: Path, prompt: str, reply: str, *, is_joined: bool
) -> None:
    row = {"line": 4, "prompt": prompt, "chosen": reply, "rejected": f"{reply} {reply}"}
    found = tokenize_rows(llama, [row], tmp_path)
    assert found.with_joined_words.lines == ([4] if is_joined else [])


def test_rendered_text_that_begins_with_bos_has_it_once(tmp_path: Path) -> None:
    directory = make_base_model(tmp_path / "base", "llama")  # its tokenizer begins with <s>
    base = TinyBase.of(directory, tmp_path / "files")
    rows = [{"line": 1, "chosen": "<s>good", "rejected": "bad"}]
    (pair,) = tokenize_rows(base, rows, tmp_path).pairs
    assert pair.chosen[0] == pair.rejected[0]
    assert list(pair.chosen).count(pair.chosen[0]) == 1


# --- rows that cannot be rendered ---------------------------------------------------------------


@pytest.mark.parametrize(("share", "is_refused"), [(0.0, True), (0.2, True), (0.25, False)])
def test_rows_that_cannot_be_rendered_are_skipped_up_to_a_share(
    llama: TinyBase, tmp_path: Path, share: float, *, is_refused: bool
) -> None:
    rows = make_pairs(4)
    rows[2] |= {"tools": [ADD]}
    file = PairFile(write_rows(tmp_path / "rows.jsonl", rows), skippable_share=share)
    tokenizer = make_pair_tokenizer(llama, rows, chat_template=PLAIN)
    if is_refused:
        with pytest.raises(TrainerError, match=r"leaves out tools"):
            tokenize_pairs(file, tokenizer)
        return
    found = tokenize_pairs(file, tokenizer)
    assert [pair.line for pair in found.pairs] == [1, 2, 4]
    ((reason, lines),) = found.unrenderable.items()
    assert "leaves out tools" in reason
    assert lines.lines == [3]


def test_dataset_whose_only_differences_the_template_strips_is_refused(
    llama: TinyBase, tmp_path: Path
) -> None:
    rows = [PAIR | {"chosen": [GOOD], "rejected": [GOOD | {"content": " the answer is 3 .  "}]}]
    assert "line 1: chosen and rejected have the same tokens" in refusal(llama, rows, tmp_path)


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
