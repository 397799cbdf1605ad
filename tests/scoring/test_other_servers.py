"""The routes of other reward servers respond as their clients expect, with the certified scores."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.model_factories.orders import TinyBase
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


Ids = list[list[int]]
#: What clients send in other ways: the route, the body for texts and their token ids, and how they
#: read the raw rewards.
FORMS: dict[
    str, tuple[str, Callable[[list[str], Ids], dict[str, Any]], Callable[[Any], list[float]]]
] = {
    "vLLM, one list of token ids": (
        "classify",
        lambda _, ids: {"input": ids[0], "use_activation": False},
        lambda answer: [each["probs"][0] for each in answer["data"]],
    ),
    "vLLM, lists of token ids": (
        "classify",
        lambda _, ids: {"input": ids, "use_activation": False},
        lambda answer: [each["probs"][0] for each in answer["data"]],
    ),
    "vLLM, earlier name of use_activation": (
        "classify",
        lambda texts, _: {"input": texts, "activation": False},
        lambda answer: [each["probs"][0] for each in answer["data"]],
    ),
    "vLLM, fields that do not matter": (
        "classify",
        lambda texts, _: {
            "input": texts, "use_activation": False, "user": "me", "priority": 3,
            "truncate_prompt_tokens": -1, "truncation_side": "left", "add_special_tokens": True,
        },
        lambda answer: [each["probs"][0] for each in answer["data"]],
    ),
    "OpenRLHF, all of its fields": (
        "get_reward",
        lambda texts, _: {"query": texts, "prompts": texts, "labels": [None, {"a": 1}]},
        lambda answer: answer["scores"],
    ),
    "SGLang, a list of token ids": (
        "v1/embeddings",
        lambda _, ids: {"input": ids, "encoding_format": "float"},
        lambda answer: [each["embedding"][0] for each in answer["data"]],
    ),
    "SGLang, parts": (
        "v1/embeddings",
        lambda texts, _: {"input": [{"text": text, "image": None} for text in texts]},
        lambda answer: [each["embedding"][0] for each in answer["data"]],
    ),
    "SGLang, one part": (
        "v1/embeddings",
        lambda texts, _: {"input": {"text": texts[0]}},
        lambda answer: [each["embedding"][0] for each in answer["data"]],
    ),
    "TEI, texts and lists of one": (
        "predict",
        lambda texts, _: {"inputs": [texts[0], [texts[1]]], "raw_scores": True, "truncate": True},
        lambda answer: [each[0]["score"] for each in answer],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_text_have_the_certified_score(stage: Stage, tiny: TinyBase, form: str) -> None:
    path, body, read = FORMS[form]
    texts, certified = zip(*list(stage.trained["chat"].texts.items())[:2], strict=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny.directory)
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    answer = stage.client.post(f"/m/{stage.chat}/{path}", json=body(list(texts), ids))
    assert answer.status_code == 200, answer.text
    found = read(answer.json())
    assert found == pytest.approx(list(certified)[: len(found)], abs=1e-5)


def test_pair_of_texts_is_a_prompt_with_its_reply(stage: Stage) -> None:
    pairs = [["tell me", "the answer is kind ."], ["tell me", "no"]]
    group = {"prompt": "tell me", "responses": [reply for _, reply in pairs]}
    expected = stage.score(model=stage.chat, groups=[group])["data"][0]["scores"]
    for inputs, read in ((pairs, lambda answer: answer), (pairs[0], lambda answer: [answer])):
        body = {"inputs": inputs, "raw_scores": True}
        found = read(stage.client.post("/predict", json=body).json())
        assert [each[0]["score"] for each in found] == pytest.approx(
            expected[: len(found)], abs=1e-5
        )


TEXTS = [
    "",
    "\u0000",
    "🙂👍🏽",
    "مرحبا",
    "a" * 50,
    "<eos>",
    "\n\n",
    "{{ x }} {% y %}",
    "\ufeff\u202e",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_of_a_policy_gets_a_score(stage: Stage, text: str) -> None:
    answer = stage.client.post(f"/rm/{stage.chat}", json={"prompt": "hi", "response": text})
    assert answer.status_code == 200, answer.text
    assert math.isfinite(answer.json())


def test_thousand_texts_keep_their_order(stage: Stage) -> None:
    texts = [f"the answer about {number} is kind ." for number in range(1000)]
    answer = stage.client.post("/get_reward", json={"query": texts}).json()["rewards"]
    few = [0, 499, 999]
    alone = stage.client.post("/get_reward", json={"query": [texts[i] for i in few]}).json()
    assert len(answer) == 1000
    assert [answer[i] for i in few] == pytest.approx(alone["rewards"], abs=1e-5)


LONG = "tea " * 400
#: Requests that cannot be scored, and the place that the error names.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no texts": ("get_reward", {"query": []}, "/query"),
    "no input": ("classify", {"input": []}, "/input"),
    "neither input nor messages": ("classify", {"model": "rm"}, "Send input or messages"),
    "no documents": ("v1/rerank", {"query": "a", "documents": []}, "/documents"),
    "document without a text": (
        "rerank",
        {"query": "a", "documents": [{"t": "b"}]},
        "/documents/0",
    ),
    "unknown token id": ("classify", {"input": [[2, 3], [10**6]]}, "/input/1"),
    "negative token id": ("v1/embeddings", {"input": [-1]}, "/input"),
    "a picture": ("v1/embeddings", {"input": [{"text": "a", "image": "x"}]}, "/input/0"),
    "three texts": ("predict", {"inputs": [["a", "b"], ["a", "b", "c"]]}, "/inputs/1"),
    "a long text": ("get_reward", {"query": ["tea", LONG]}, "/query/1"),
    "a long document": ("rerank", {"query": "a", "documents": ["tea", LONG]}, "/documents/1"),
    "both of documents and texts": (
        "rerank",
        {"query": "a", "documents": ["b"], "texts": ["b"]},
        "Send documents or texts",
    ),
    "a long text of TEI": ("rerank", {"query": "a", "texts": ["tea", LONG]}, "/texts/1"),
    "a long reply": ("rm", {"prompt": "a", "response": LONG}, "/response"),
    "a long conversation": ("v1/score/evaluation", {"messages": ["a", LONG]}, "/messages/1"),
    "half of a character": ("get_reward", {"query": ["tea", "\ud83d"]}, "/query/1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_names_the_place_in_the_shape_of_the_server(stage: Stage, case: str) -> None:
    path, body, place = REFUSED[case]
    content = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = stage.client.post(f"/m/{stage.chat}/{path}", content=content, headers=headers)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    is_tei = path == "predict"
    message = problem["error"] if is_tei else problem["error"]["message"]
    assert place in message
    assert isinstance(problem["error_type"] if is_tei else problem["error"]["type"], str)


def large() -> Iterator[bytes]:
    """Yield a body over the limit, whose length no header declares."""
    for _ in range(17):
        yield b" " * (1 << 20)


JSON = {"Content-Type": "application/json"}
#: Errors by the part of the service that refuses the request.
OTHER_ERRORS: dict[str, tuple[str, Callable[[], Any], dict[str, str], int]] = {
    "not JSON": ("POST", lambda: b'{"input": ', JSON, 422),
    "wrong key": ("POST", lambda: b"{}", {"Authorization": "Bearer plk_wrong"}, 401),
    "too large": ("POST", lambda: b" " * (17 << 20), JSON, 413),
    "too large in chunks": ("POST", large, JSON, 413),
    "other method": ("GET", lambda: None, {}, 405),
}


@pytest.mark.parametrize("path", ["classify", "predict"])
@pytest.mark.parametrize("case", OTHER_ERRORS)
def test_other_errors_have_the_shape_of_the_server(stage: Stage, path: str, case: str) -> None:
    method, content, headers, status = OTHER_ERRORS[case]
    url = f"/m/{stage.chat}/{path}"
    answer = stage.client.request(method, url, content=content(), headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    error = problem["error"]
    assert problem["detail"] == (error if path == "predict" else error["message"])


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
    parts = [{"text": text, "title": "t"} for text in documents]
    for path in ("rerank", "v2/rerank"):
        body = {"query": "tell me", "documents": parts, "top_n": 0, "return_documents": False}
        all_of_them = stage.client.post(f"/m/{stage.chat}/{path}", json=body).json()["results"]
        assert [result["index"] for result in all_of_them][:3] == best
        assert [sorted(result) for result in all_of_them] == [["index", "relevance_score"]] * 4


def test_rerank_of_tei_orders_texts_by_their_reward(stage: Stage) -> None:
    texts = [f"the answer is {word} ." for word in ("kind", "rude", "clear", "sly")]
    group = {"prompt": "tell me", "responses": texts}
    scores = stage.score(model=stage.chat, groups=[group])["data"][0]["scores"]
    best = sorted(range(4), key=lambda i: -scores[i])
    body = {"query": "tell me", "texts": texts, "truncate": False}
    url = f"/m/{stage.chat}/rerank"
    raw = stage.client.post(url, json=body | {"raw_scores": True, "return_text": True}).json()
    assert [(each["index"], each["text"]) for each in raw] == [(i, texts[i]) for i in best]
    assert [each["score"] for each in raw] == pytest.approx([scores[i] for i in best], abs=1e-5)
    usual = stage.client.post(url, json=body).json()
    assert [sorted(each) for each in usual] == [["index", "score"]] * 4
    assert [each["score"] for each in usual] == pytest.approx(
        [squashed(scores[i]) for i in best], abs=1e-5
    )
    long = {"query": "a", "texts": ["tea", LONG], "truncate": True}
    assert len(stage.client.post(url, json=long).json()) == 2


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
    assert problem["error"].startswith("/inputs/1: ")
