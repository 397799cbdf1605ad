"""Files with the columns that the publishers of the benchmarks use are read as the rules need."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from starlette.testclient import TestClient

Rows = list[dict[str, Any]]

REWARD_BENCH: Rows = [
    {
        "prompt": f"What is {n}+2?", "chosen": f"It is {n + 2}.", "chosen_model": "GPT4",
        "rejected": "It is a number.", "rejected_model": f"model {n}", "subset": subset, "id": n,
    }
    for n, subset in enumerate(["alpacaeval-easy", "llmbar-adver-GPTInst", "math-prm", "hep-cpp"])
]  # fmt: skip

_METADATA = {
    "category": "Brainstorm", "correct": None, "index": None, "instruction_id_list": None,
    "label": "", "method": "Natural", "models": ["a", "b"], "prompt_norm": None,
    "subcategory": None, "valid": 1.0,
}  # fmt: skip


def _reward_bench_2(name: str, subset: str, correct: list[str], wrong: list[str]) -> dict[str, Any]:
    return {
        "id": name, "prompt": f"Question {name}?", "chosen": correct, "rejected": wrong,
        "num_correct": len(correct), "num_incorrect": len(wrong),
        "total_completions": len(correct) + len(wrong), "models": ["a", f"b{name}"],
        "subset": subset, "additional_metadata": {**_METADATA, "subcategory": f"of {name}"},
    }  # fmt: skip


REWARD_BENCH_2: Rows = [
    *(
        _reward_bench_2(str(n), subset, ["right"], ["wrong", "worse", "worst"])
        for n, subset in enumerate(["Factuality", "Precise IF", "Math", "Safety", "Focus"])
    ),
    _reward_bench_2("ref:0", "Ties", ["red"], ["brown", "the sea"]),
    _reward_bench_2("tied:0", "Ties", ["red", "blue", "green"], ["brown", "the sea", "red"]),
]
RM_BENCH: Rows = [
    {
        "id": f"{domain}_1",
        "prompt": f"A question of {domain}?",
        "chosen": [f"{style} and right" for style in ("short", "long", "**long**")],
        "rejected": [f"{style} and wrong" for style in ("short", "long", "**long**")],
        "domain": domain,
    }
    for domain in ("chat", "math", "code", "safety-refuse", "safety-response")
]
JUDGE_BENCH: Rows = [
    {
        "pair_id": f"e302b0a0-28d5-5a3c-b1af-{n}", "original_id": n, "source": source,
        "question": f"Question {n}?", "response_model": "gpt-4o-2024-05-13",
        "response_A": f"FFFFF {n}", "response_B": f"AAAAA {n}", "label": label,
    }
    for n, (source, label) in enumerate(
        [("mmlu-pro-law", "A>B"), ("livebench-reasoning", "B>A"), ("livebench-math", "B>A"),
         ("livecodebench", "A>B")]
    )
]  # fmt: skip
PPE_HUMAN: Rows = [
    {
        "question_id": f"q{n}", "model_a": f"a{n}", "model_b": "b", "winner": winner,
        "prompt": f"Question {n}?", "response_1": f"one {n}", "response_2": f"two {n}",
        "language": "English", "conv_metadata": {"turns": 1, "sum_user_tokens": 9},
        "is_code": False, "is_refusal": False,
        "category_tag": {"if_v0.1": {"if": True, "score": 4}, "math_v0.1": {"math": False}},
        "sim": 0.5, "length_a": 5, "length_b": 6, "token_diff": 0.1, "longer_won": longer,
        "hard_prompt": True, "easy_prompt": False, "if_prompt": False, "math_prompt": False,
    }
    for n, (winner, longer) in enumerate(
        [("model_a", "no"), ("model_b", "yes"), ("tie", "tie"), ("tie (bothbad)", "tie")]
    )
]  # fmt: skip
_SAMPLES = {f"response_{n}": f"sample {n} of 32" for n in range(1, 33)}


def _best_of_k(**columns: Any) -> Rows:
    """Three rows: a part of the text columns differs from row to row."""
    return [
        {
            "question_id": f"q{n}", "prompt": f"Question {n}?", "model_name": "gemma",
            **{name: f"{value} {n}" if isinstance(value, str) else value
               for name, value in columns.items()},
            "scores": [m % 3 == n for m in range(32)], "mean_score": 0.3, **_SAMPLES,
            "conflict_pairs": [[0, 1]], "sampled_conflict_pairs": [[0, 1], [3, 1]],
        }
        for n in range(3)
    ]  # fmt: skip


MMLU_PRO = _best_of_k(
    question="Which?", options=["a", "b"], answer="A", answer_index=0, category="law",
    parsed_outputs=["A", None],
)  # fmt: skip
MATH = _best_of_k(
    problem="How many?", level="Level", type="Algebra", solution="It is", sanitized_solution="is",
    parsed_outputs=["4", "5"],
)  # fmt: skip
GPQA = _best_of_k(
    **{"Question": "Which?", "Subdomain": "optics", "Record ID": "rec", "choices": ["a", "b"],
       "High-level domain": "Physics", "correct_choice_index": 1, "correct_choice": "b",
       "parsed_outputs": ["A"], "canary_string": "canary"}
)  # fmt: skip
IFEVAL = _best_of_k(
    ifeval_prompt="Write", key=1, instruction_id_list=["detectable_format:title"],
    kwargs=[{"relation": "at least", "num_words": 5.0}],
    score_data=[{"inst_level_loose_acc": [True], "prompt_level_loose_acc": True}],
)  # fmt: skip
MBPP_PLUS = _best_of_k(
    task_id=2, code="def f", source_file="Benchmark", test_imports=[], test_list=["assert f"],
    test="import numpy",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """Rows as they are published, the kind of their file, and the slices that are stored."""

    suite: str
    rows: Rows
    file: str
    slices: list[str | None]


def _column(rows: Rows, name: str) -> list[str | None]:
    return [row[name] for row in rows]


CASES = {
    "reward-bench": Published(
        "reward-bench@1", REWARD_BENCH, "parquet", _column(REWARD_BENCH, "subset")
    ),
    "reward-bench-2": Published(
        "reward-bench-2@1", REWARD_BENCH_2, "parquet", _column(REWARD_BENCH_2, "subset")
    ),
    "rm-bench": Published("rm-bench@1", RM_BENCH, "json", _column(RM_BENCH, "domain")),
    "judge-bench": Published("judge-bench@1", JUDGE_BENCH, "jsonl", _column(JUDGE_BENCH, "source")),
    "ppe-human": Published("ppe-human@0", PPE_HUMAN, "parquet", [None, None]),
    **{
        name: Published("ppe-correctness@0", rows, "parquet", [None] * 3)
        for name, rows in (
            ("mmlu-pro", MMLU_PRO), ("math", MATH), ("gpqa", GPQA), ("ifeval", IFEVAL),
            ("mbpp-plus", MBPP_PLUS),
        )
    },
}  # fmt: skip


def upload(client: TestClient, published: Published) -> tuple[dict[str, Any], Rows]:
    """Upload rows with the parameters that their suite names; return the dataset and its rows."""
    suites = {suite["id"]: suite for suite in client.get("/v1/suites").json()["data"]}
    rows = published.rows
    if published.file == "parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        content, kind = buffer.getvalue(), "application/vnd.apache.parquet"
    elif published.file == "json":
        content, kind = json.dumps(rows).encode(), "application/json"
    else:
        content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        kind = "application/x-ndjson"
    answer = client.post(
        "/v1/datasets",
        params=suites[published.suite]["upload"],
        content=content,
        headers={"Content-Type": kind},
    )
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    assert dataset["row_form"] == suites[published.suite]["row_form"]
    stored = client.get(f"/v1/datasets/{dataset['id']}/content").text
    return dataset, [json.loads(line) for line in stored.splitlines()]


@pytest.mark.parametrize("name", CASES)
def test_published_file_is_read_as_its_rule_needs_it(client: TestClient, name: str) -> None:
    published = CASES[name]
    _, rows = upload(client, published)
    assert [row.get("slice") for row in rows] == published.slices


def test_replies_keep_their_order_and_ties_their_ids(client: TestClient) -> None:
    _, rows = upload(client, CASES["reward-bench-2"])
    *_, ref, tied = rows
    assert [ref["id"], tied["id"]] == ["ref:0", "tied:0"]
    assert [reply["rank"] for reply in tied["replies"]] == [1, 1, 1, 2, 2, 2]
    # A reply that is there twice stays, because the rule counts places.
    assert [reply["reply"] for reply in tied["replies"]] == [
        *REWARD_BENCH_2[-1]["chosen"], *REWARD_BENCH_2[-1]["rejected"],
    ]  # fmt: skip


def test_sides_of_judge_bench_keep_which_of_them_is_a(client: TestClient) -> None:
    _, rows = upload(client, CASES["judge-bench"])
    for stored, row in zip(rows, JUDGE_BENCH, strict=True):
        assert stored["id"] == row["label"]
        assert stored["chosen"] == row["response_A" if row["label"] == "A>B" else "response_B"]


def test_samples_of_a_prompt_keep_their_scores(client: TestClient) -> None:
    dataset, rows = upload(client, CASES["mmlu-pro"])
    assert dataset["shape"] == "numbered_responses"
    for stored, row in zip(rows, MMLU_PRO, strict=True):
        assert len(stored["replies"]) == 32
        for reply in stored["replies"]:
            place = list(_SAMPLES.values()).index(reply["reply"])
            assert reply["score"] == float(row["scores"][place])
