"""The FastAPI class of the service: request ids, logs and problem details around every route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from app.core.errors import TooLargeError
from app.web.exception_handlers import PlainTextErrors
from app.web.http_semantics import CombinedFields, HeadRequests
from app.web.middleware import RequestLog
from app.web.problem_details import Problem, error_responses

#: The largest JSON body. Uploads have a limit of their own.
MAX_BODY_BYTES = 256 << 10


class Plaudit(FastAPI):
    """FastAPI with an outer layer for errors that exception handlers do not reach."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            max_body_size=MAX_BODY_BYTES,
            # FastAPI's documentation pages load scripts from third-party servers.
            docs_url=None,
            redoc_url=None,
            generate_unique_id_function=lambda route: route.name,
            redirect_slashes=False,
            **options,
        )

    def build_middleware_stack(self) -> ASGIApp:
        """Return the framework's stack inside the layers of the service."""
        stack: Any = PlainTextErrors(super().build_middleware_stack(), self)
        stack = CombinedFields(HeadRequests(stack))
        layered: ASGIApp = RequestLog(stack, self.state.telemetry.requests)
        return layered

    def openapi(self) -> dict[str, Any]:
        """Return the framework's OpenAPI document with Problem as the only error schema."""
        if not self.openapi_schema:
            document = super().openapi()
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas |= schema.pop("$defs") | {"Problem": schema}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    _correct_responses(operation)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _correct_responses(operation: dict[str, Any]) -> None:
    """Fix response entries that FastAPI cannot know."""
    responses = operation["responses"]
    if "application/json" in responses.get("422", {}).get("content", {}):
        # FastAPI's default entry, for an operation whose input cannot be invalid.
        responses.pop("422")
    if "requestBody" in operation:
        for status, response in error_responses(TooLargeError).items():
            responses.setdefault(str(status), response)
    operation["responses"] = dict(sorted(responses.items()))
