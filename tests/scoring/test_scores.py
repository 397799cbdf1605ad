"""POST /v1/score against a real scorer: scores, errors, and isolation of tenants."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import transaction
from tests.scoring.stage import Stage

PROMPT = [{"role": "user", "content": "please tell me about tea ?"}]
REPLIES = ["the answer about tea is kind .", "the answer about tea is rude and wrong ."]


def as_messages(texts: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.mark.parametrize("name", ["chat", "other_chat", "text"])
def test_probes_get_their_certified_scores(stage: Stage, name: str) -> None:
    texts = stage.trained[name].texts
    answer = stage.score(model=getattr(stage, name), inputs=[{"text": text} for text in texts])
    found = [data["scores"][0] for data in answer["data"]]
    assert found == pytest.approx(list(texts.values()), abs=1e-5, rel=1e-5)


def test_group_gives_the_scores_of_its_texts_and_computes_the_prompt_once(stage: Stage) -> None:
    grouped = stage.score(
        model=stage.chat,
        groups=[{"id": "a", "prompt": PROMPT, "responses": as_messages(REPLIES)}],
        **{"return": ["tokens"]},
    )
    whole = stage.score(
        model=stage.chat,
        inputs=[{"messages": [*PROMPT, *reply]} for reply in as_messages(REPLIES)],
    )
    strings = stage.score(
        model=stage.chat, groups=[{"prompt": PROMPT[0]["content"], "responses": REPLIES}]
    )
    data = grouped["data"][0]
    assert data["id"] == "a"
    assert data["truncated"] == [False, False]
    assert data["scores"] == pytest.approx([d["scores"][0] for d in whole["data"]], abs=1e-5)
    assert data["scores"] == pytest.approx(strings["data"][0]["scores"], abs=1e-5)
    assert grouped["usage"]["prompt_tokens"] == sum(data["tokens"])
    assert grouped["usage"]["computed_tokens"] < sum(data["tokens"])


def test_empty_reply_of_a_policy_gets_a_score(stage: Stage) -> None:
    groups = [{"prompt": PROMPT, "responses": as_messages(["", "   ", *REPLIES])}]
    scores = stage.score(model=stage.chat, groups=groups)["data"][0]["scores"]
    assert len(scores) == 4
    text = "<|im_start|>user\nplease tell me about tea ?<|im_end|>\n<|im_start|>assistant\n"
    alone = stage.score(model=stage.chat, inputs=[{"text": f"{text}<|im_end|>\n"}])
    assert scores[0] == pytest.approx(alone["data"][0]["scores"][0], abs=1e-5)


def test_deterministic_scores_do_not_depend_on_neighbours(stage: Stage) -> None:
    texts = list(stage.trained["chat"].texts)[:6]
    together = stage.score(
        model=stage.chat, inputs=[{"text": t} for t in texts], deterministic=True
    )
    alone = [
        stage.score(model=stage.chat, inputs=[{"text": t}], deterministic=True)["data"][0]
        for t in texts
    ]
    assert [d["scores"] for d in together["data"]] == [d["scores"] for d in alone]


def raw_scores(stage: Stage, model: Any, **more: Any) -> dict[str, Any]:
    groups = [{"prompt": PROMPT, "responses": as_messages(REPLIES)}]
    return dict(stage.score(model=model, groups=groups, **more)["data"][0])


def test_zscore_and_sigmoid(stage: Stage) -> None:
    summary = stage.trained["chat"].summary
    raw = raw_scores(stage, stage.chat)["scores"]
    zscores = raw_scores(stage, stage.chat, normalize="zscore")["scores"]
    squashed = raw_scores(stage, stage.chat, normalize="sigmoid")["scores"]
    mean, std = summary["reward_mean"], summary["reward_std"]
    assert zscores == pytest.approx([(s - mean) / std for s in raw], abs=1e-4)
    assert squashed == pytest.approx([1 / (1 + math.exp(-s)) for s in raw], abs=1e-6)


@pytest.mark.parametrize("reduce", ["mean", "min", "lcb"])
def test_ensemble_combines_zscores_of_its_members(stage: Stage, reduce: str) -> None:
    members = [stage.chat, stage.other_chat]
    zscores = [raw_scores(stage, m, normalize="zscore")["scores"] for m in members]
    model = {"ensemble": members, "reduce": reduce, "lambda": 2}
    found = raw_scores(stage, model, **{"return": ["members"]})
    columns = list(zip(*zscores, strict=True))
    stds = [statistics.pstdev(column) for column in columns]
    expected = {
        "mean": [statistics.fmean(c) for c in columns],
        "min": [min(c) for c in columns],
        "lcb": [statistics.fmean(c) - 2 * s for c, s in zip(columns, stds, strict=True)],
    }[reduce]
    assert found["scores"] == pytest.approx(expected, abs=1e-4)
    assert found["std"] == pytest.approx(stds, abs=1e-4)
    assert found["members"] == [pytest.approx(z, abs=1e-4) for z in zscores]


def test_score_spec_is_in_every_answer_and_can_be_required(stage: Stage) -> None:
    body = {"model": stage.chat, "inputs": [{"text": "tea"}]}
    answer = stage.client.post("/v1/score", json=body)
    spec = answer.json()["score_spec"]
    assert answer.headers["x-plaudit-score-spec"] == spec
    assert answer.headers["x-plaudit-adapter"] == stage.chat
    again = stage.client.post("/v1/score", json=body, headers={"If-Score-Spec": spec})
    assert again.status_code == 200
    other = stage.score(model=stage.other_chat, inputs=[{"text": "tea"}])["score_spec"]
    assert other != spec
    refused = stage.client.post("/v1/score", json=body, headers={"If-Score-Spec": other})
    assert (refused.status_code, refused.json()["code"]) == (412, "score_spec_changed")


LONG = " ".join(["tea"] * 300)


def test_item_that_is_too_long_is_named_and_nothing_is_scored(stage: Stage) -> None:
    groups = [
        {"prompt": PROMPT, "responses": as_messages(REPLIES)},
        {"prompt": PROMPT, "responses": [*as_messages(REPLIES), *as_messages([LONG])]},
    ]
    problem = stage.score(422, model=stage.chat, groups=groups)
    assert problem["code"] == "item_too_long"
    assert [error["loc"] for error in problem["errors"]] == ["/groups/1/responses/2"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_keeps_one_side(stage: Stage, side: str) -> None:
    answer = stage.score(
        model=stage.text,
        inputs=[{"text": LONG}, {"text": "tea"}],
        truncation=side,
        max_length=20,
        **{"return": ["tokens"]},
    )
    assert [d["truncated"] for d in answer["data"]] == [[True], [False]]
    assert answer["usage"]["prompt_tokens"] == 20 + 2


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "messages for a text adapter": (
        {"model": "text", "groups": [{"prompt": PROMPT, "responses": as_messages(REPLIES)}]},
        422, "item_invalid",
    ),
    "a message without content": (
        {"model": "chat", "inputs": [{"messages": [{"role": "user"}]}]}, 422, "item_invalid",
    ),
    "no list": ({"model": "chat"}, 422, "invalid_request"),
    "both lists": (
        {"model": "chat", "groups": [{"responses": ["a"]}], "inputs": [{"text": "a"}]},
        422, "invalid_request",
    ),
    "two forms": (
        {"model": "chat", "inputs": [{"text": "a", "response": "b"}]}, 422, "invalid_request",
    ),
    "an unknown adapter": (
        {"model": "ad_" + "0" * 32, "inputs": [{"text": "a"}]}, 404, "adapter_not_found",
    ),
    "an adapter with other scores than its certificate": (
        {"model": "damaged", "inputs": [{"text": "a"}]}, 409, "adapter_not_verified",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusal(stage: Stage, case: str) -> None:
    body, status, code = REFUSED[case]
    model = getattr(stage, body["model"], body["model"])
    assert stage.score(status, **{**body, "model": model})["code"] == code


def test_adapter_of_another_tenant_is_not_found_and_the_scope_is_required(stage: Stage) -> None:
    with transaction(stage.engine) as session:
        stranger = api_keys.create(session, "stranger", "a test", [Scope.SCORES_WRITE]).token
        reader = api_keys.create(session, "acme", "a test", [Scope.JOBS_READ]).token
    body = {"model": stage.chat, "inputs": [{"text": "tea"}]}
    for key, status in ((stranger, 404), (reader, 403)):
        answer = stage.client.post(
            "/v1/score", json=body, headers={"Authorization": f"Bearer {key}"}
        )
        assert answer.status_code == status
