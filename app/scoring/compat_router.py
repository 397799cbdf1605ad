"""Routes of other reward servers that RL trainers call, with the responses that they expect.

Each exists as ``/…`` and as ``/m/{model}/…``: OpenRLHF sends no model and LLaMA-Factory a constant
one. The routes are not in the OpenAPI document, because their contracts belong to other projects;
docs/scoring.md lists them.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from app.adapters.service import AdapterNotFoundError
from app.auth.key_ring import Principal
from app.auth.require_scope import RequireScopeAtAnyRate
from app.auth.scopes import Scope
from app.core.settings import Settings
from app.domain.scoring import ScoredWork
from app.scoring import scoring, service
from app.scoring.compat_schemas import (
    Asked,
    ClassifyRequest,
    EmbeddingsRequest,
    EvaluationRequest,
    GetRewardRequest,
    PredictRequest,
    RemoteRmRequest,
    RerankRequest,
    usage,
)
from app.scoring.schemas import ADAPTER_ID
from app.scoring.score_route import MAX_BODY_BYTES, ScoreRoute
from app.scoring.scoring_model import sigmoid
from app.web.problem_details import Problem

LABEL = "LABEL_0"


class CompatRoute(ScoreRoute):
    """Adds to an error the fields that the clients of the original server read."""

    max_values = 1_000_000  # lists of token ids

    def error_fields(self, problem: Problem) -> dict[str, Any]:
        """Return the fields to add to the response of an error."""
        if self.path.endswith("/predict"):  # Text Embeddings Inference
            return {"error": problem.detail, "error_type": problem.code}
        error = {"message": problem.detail, "type": problem.code, "code": problem.status}
        return {"object": "error", "error": error, "message": problem.detail}


RequireKey = Annotated[
    Principal, Depends(RequireScopeAtAnyRate(Scope.SCORES_WRITE, has_basic=True))
]
router = APIRouter(route_class=CompatRoute, include_in_schema=False)


def _route(path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        for prefix in ("", "/m/{model_name}"):
            router.add_api_route(
                prefix + path,
                endpoint,
                methods=["POST"],
                response_class=Response,
                max_body_size=MAX_BODY_BYTES,
            )
        return endpoint

    return add


@_route("/get_reward")
async def get_reward(request: Request, body: GetRewardRequest, key: RequireKey) -> Response:
    """OpenRLHF."""
    _, scored = await _score(request, key, body.model, body.asked())
    rewards = _raw(scored)
    return _json({"rewards": rewards, "scores": rewards, "extra_logs": {}})


@_route("/classify")
async def classify(request: Request, body: ClassifyRequest, key: RequireKey) -> Response:
    """vLLM: ``probs`` is the raw reward only with ``use_activation: false``."""
    model, scored = await _score(request, key, body.model, body.asked())
    data = [
        {
            "index": index,
            "label": LABEL,
            "probs": [reward if body.use_activation is False else sigmoid(reward)],
            "num_classes": 1,
        }
        for index, reward in enumerate(_raw(scored))
    ]
    return _json({**_envelope("classify", model), "data": data, "usage": _usage(scored)})


@_route("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingsRequest, key: RequireKey) -> Response:
    """SGLang: each "embedding" has one number, which is the reward."""
    model, scored = await _score(request, key, body.model, body.asked())
    data = [
        {"object": "embedding", "index": index, "embedding": [reward]}
        for index, reward in enumerate(_raw(scored))
    ]
    return _json({**_envelope("embd", model), "data": data, "usage": _usage(scored)})


@_route("/rm")
async def remote_rm(request: Request, body: RemoteRmRequest, key: RequireKey) -> Response:
    """slime: the response is a number without an object around it."""
    _, scored = await _score(request, key, body.model, body.asked())
    return _json(_raw(scored)[0])


router.add_api_route(
    "/rm/{model_name}",
    remote_rm,
    methods=["POST"],
    response_class=Response,
    max_body_size=MAX_BODY_BYTES,
)


@_route("/v1/score/evaluation")
async def evaluation(request: Request, body: EvaluationRequest, key: RequireKey) -> Response:
    """LLaMA-Factory."""
    model, scored = await _score(request, key, body.model, body.asked())
    return _json(
        {
            "id": _id("scoreval"),
            "object": "score.evaluation",
            "model": model,
            "scores": _raw(scored),
        }
    )


@_route("/rerank")
@_route("/v1/rerank")
@_route("/v2/rerank")
async def rerank(request: Request, body: RerankRequest, key: RequireKey) -> Response:
    """Order documents by the reward that they get as replies to the query."""
    model, scored = await _score(request, key, body.model, body.asked())
    texts, rewards = body.replies(), _raw(scored)
    best = sorted(range(len(texts)), key=lambda i: -rewards[i])[: body.top_n or None]
    if body.texts is not None:
        return _json(
            [
                {
                    "index": i,
                    "score": rewards[i] if body.raw_scores else sigmoid(rewards[i]),
                    **({"text": texts[i]} if body.return_text else {}),
                }
                for i in best
            ]
        )
    results = [
        {
            "index": i,
            **({"document": {"text": texts[i]}} if body.return_documents else {}),
            "relevance_score": rewards[i] if body.use_activation is False else sigmoid(rewards[i]),
        }
        for i in best
    ]
    return _json({"id": _id("rerank"), "model": model, "usage": _usage(scored), "results": results})


@_route("/predict")
async def predict(request: Request, body: PredictRequest, key: RequireKey) -> Response:
    """Text Embeddings Inference: sigmoid unless ``raw_scores``."""
    _, scored = await _score(request, key, body.model, body.asked())
    found = [
        [{"score": reward if body.raw_scores else sigmoid(reward), "label": LABEL}]
        for reward in _raw(scored)
    ]
    return _json(found if body.is_batch else found[0])


async def _score(
    request: Request, key: Principal, named: str | None, asked: Asked
) -> tuple[str, ScoredWork]:
    """Return the adapter and the scores of items with one reply, or one item with several."""
    adapter = _adapter_of(request, named)
    model = await scoring.find_model(request, key.tenant_id, adapter)
    work = service.plain_work(model, asked.items, asked.truncation, asked.max_length)
    size = int(request.headers.get("content-length") or 0)
    return adapter, await scoring.score(request, work, asked.locs, size)


def _adapter_of(request: Request, named: str | None) -> str:
    """Return the adapter that the path names, or the body, or the operator's default."""
    in_path = request.path_params.get("model_name")
    for name in (in_path, named):
        if name is not None and re.fullmatch(ADAPTER_ID, name):
            return name
    settings: Settings = request.app.state.settings
    if in_path is None and settings.scoring_model is not None:
        return settings.scoring_model
    raise AdapterNotFoundError(
        "The request names no adapter.",
        hint="Put the id into the path, /m/ad_…/…, or ask the operator for a default model.",
    )


def _raw(scored: ScoredWork) -> list[float]:
    return [score for item in scored.items for score in item.scores[0]]


def _usage(scored: ScoredWork) -> dict[str, Any]:
    return usage(scored.prompt_tokens)


def _envelope(prefix: str, model: str) -> dict[str, Any]:
    return {"id": _id(prefix), "object": "list", "created": int(time.time()), "model": model}


def _id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
