"""The routes of other reward servers respond as their clients expect, with the certified scores."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.scoring.stage import Stage

Read = Callable[[Any], float]


def squashed(score: float) -> float:
    return 1 / (1 + math.exp(-score))


#: The body that a client sends for a text, its parser of the response, and the expected value.
ROUTES: dict[str, tuple[Callable[[str], dict[str, Any]], Read, Callable[[float], float]]] = {
    "get_reward": (
        lambda text: {"query": [text], "prompts": [""], "labels": [None]},
        lambda answer: answer["rewards"][0],
        float,
    ),
    "classify": (
        lambda text: {"model": "rm", "input": text, "use_activation": False},
        lambda answer: answer["data"][-1]["probs"][-1],
        float,
    ),
    "classify ": (
        lambda text: {"model": "rm", "input": text},
        lambda answer: answer["data"][-1]["probs"][-1],
        squashed,
    ),
    "v1/embeddings": (
        lambda text: {"model": "rm", "input": text},
        lambda answer: answer["data"][-1]["embedding"][-1],
        float,
    ),
    "rm": (
        lambda text: {"prompt": text[:40], "response": text[40:], "label": None},
        float,
        float,
    ),
    "v1/score/evaluation": (
        lambda text: {"model": "model", "messages": [text]},
        lambda answer: answer["scores"][0],
        float,
    ),
    "predict": (
        lambda text: {"inputs": text, "raw_scores": True},
        lambda answer: answer[0]["score"],
        float,
    ),
    "predict ": (
        lambda text: {"inputs": [[text]]},
        lambda answer: answer[0][0]["score"],
        squashed,
    ),
}


@pytest.mark.parametrize("prefix", ["", "m/{chat}/"])
@pytest.mark.parametrize("route", ROUTES)
def test_route_gives_the_certified_score(stage: Stage, route: str, prefix: str) -> None:
    body, read, shown = ROUTES[route]
    text, certified = next(iter(stage.trained["chat"].texts.items()))
    path = f"/{prefix.format(chat=stage.chat)}{route.strip()}"
    answer = stage.client.post(path, json=body(text))
    assert answer.status_code == 200, answer.text
    assert read(answer.json()) == pytest.approx(shown(certified), abs=1e-5)


def test_slime_names_the_adapter_in_the_path(stage: Stage) -> None:
    prompt = [{"role": "user", "content": "please tell me about tea ?"}]
    answer = stage.client.post(
        f"/rm/{stage.other_chat}", json={"prompt": prompt, "response": "the answer", "label": 1}
    )
    expected = stage.score(
        model=stage.other_chat, groups=[{"prompt": prompt, "responses": ["the answer"]}]
    )
    assert answer.json() == pytest.approx(expected["data"][0]["scores"][0], abs=1e-5)


def test_rerank_orders_documents_by_their_reward(stage: Stage) -> None:
    documents = [f"the answer is {word} ." for word in ("kind", "rude", "clear", "sly")]
    answer = stage.client.post(
        f"/m/{stage.chat}/v1/rerank",
        json={"query": "tell me", "documents": documents, "top_n": 3, "use_activation": False},
    ).json()
    group = {"prompt": "tell me", "responses": documents}
    scores = stage.score(model=stage.chat, groups=[group])["data"][0]["scores"]
    best = sorted(range(4), key=lambda i: -scores[i])[:3]
    assert [result["index"] for result in answer["results"]] == best
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx(
        [scores[i] for i in best], abs=1e-5
    )


def test_what_clients_do_to_the_ends_of_a_text_is_undone(stage: Stage) -> None:
    """The EOS is often cut off with the last turn's end; the certified text has it."""
    for name in ("chat", "text"):
        adapter = getattr(stage, name)
        for text, certified in list(stage.trained[name].texts.items())[:2]:
            end = "<|im_end|>\n" if name == "chat" else "<eos>"
            assert text.endswith(end)
            variants = [text.removesuffix(end), text.rstrip("\n"), text]
            answer = stage.client.post(f"/m/{adapter}/get_reward", json={"query": variants})
            assert answer.json()["rewards"] == pytest.approx([certified] * 3, abs=1e-5)


def test_key_in_the_url_and_no_other_route_accepts_it(stage: Stage) -> None:
    basic = base64.b64encode(f"plaudit:{stage.key}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    good = stage.client.post("/get_reward", json={"query": ["tea"]}, headers=headers)
    assert good.status_code == 200
    body = {"model": stage.chat, "inputs": [{"text": "tea"}]}
    assert stage.client.post("/v1/score", json=body, headers=headers).status_code == 401
    bad = {"Authorization": f"Basic {base64.b64encode(b'plaudit:plk_no').decode()}"}
    assert stage.client.post("/get_reward", json={}, headers=bad).status_code == 401


@pytest.mark.parametrize("prefix", ["m/champion/", f"m/ad_{'0' * 32}/"])
def test_unknown_model_in_the_path_is_never_the_default(stage: Stage, prefix: str) -> None:
    answer = stage.client.post(f"/{prefix}classify", json={"input": "tea"})
    assert answer.status_code == 404
    problem = answer.json()
    assert problem["code"] == "adapter_not_found"
    assert problem["error"]["message"] == problem["detail"]  # as vLLM's clients read the response


def test_error_names_the_text_at_fault(stage: Stage) -> None:
    long = " ".join(["tea"] * 300)
    answer = stage.client.post("/predict", json={"inputs": [["tea"], [long]]})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["error_type"] == "item_too_long"
    assert problem["error"].startswith("/1: ")
