"""The FastAPI class with request ids, logs and problem details around every route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from app.core.errors import (
    TooLargeError,
)
from app.web.exception_handlers import PlainRefusals
from app.web.middleware import RequestLog
from app.web.problem_details import Problem, documented


class Plaudit(FastAPI):
    """FastAPI with an outermost layer for what exception handlers cannot reach."""

    def build_middleware_stack(self) -> ASGIApp:
        """The framework's stack inside of ours."""
        stack: Any = PlainRefusals(super().build_middleware_stack(), self)
        layered: ASGIApp = RequestLog(stack, self.state.telemetry.requests)
        return layered

    def openapi(self) -> dict[str, Any]:
        """The framework's document with our one error shape in it."""
        if not self.openapi_schema:
            document = super().openapi()
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= schema.pop("$defs") | {"Problem": schema}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    _correct(operation)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _correct(operation: dict[str, Any]) -> None:
    """Fix response entries that FastAPI cannot know."""
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        responses.pop("422")  # the framework's own, where nothing in the request could be wrong
    if "requestBody" in operation:
        for status, answer in documented(TooLargeError).items():
            responses.setdefault(str(status), answer)
    operation["responses"] = dict(sorted(responses.items()))
