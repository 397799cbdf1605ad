"""The operations of the OpenAPI document, and a check that a service's responses match it.

``test_reference.py`` compares the file with the code, so tests may read it before they run.
"""

from __future__ import annotations

import json
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from docs import reference

#: Responses that no client reads, each with its reason.
UNREAD = {
    ("POST", "/v1/datasets", 400): "the client hung up in the middle of its upload",
}


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    name: str
    method: str
    path: str
    statuses: tuple[int, ...]
    #: Where each parameter is ("path", "query", "header"), by its name.
    parameters: dict[str, str]
    has_body: bool
    needs_key: bool

    def __str__(self) -> str:
        return self.name


class Answer(NamedTuple):
    """What a service answered."""

    method: str
    path: str
    status: int


def _operation(method: str, path: str, document: dict[str, Any]) -> Operation:
    return Operation(
        name=document["operationId"],
        method=method.upper(),
        path=path,
        statuses=tuple(int(status) for status in document["responses"]),
        parameters={p["name"]: p["in"] for p in document.get("parameters", ())},
        has_body="requestBody" in document,
        needs_key="security" in document,
    )


def _read_operations() -> list[Operation]:
    document = json.loads((reference.HERE / "openapi.json").read_text())
    return [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


OPERATIONS = _read_operations()
_STATUSES = {(o.method, o.path): o.statuses for o in OPERATIONS}


def undocumented(answers: MutableSequence[Answer]) -> list[Answer]:
    """Return the responses of documented operations whose status the document does not name."""
    return [
        answer
        for answer in answers
        if answer.status not in _STATUSES.get(answer[:2], (answer.status,))
        and tuple(answer) not in UNREAD
    ]


class RecordAnswers:
    """ASGI middleware that appends every response to a list."""

    def __init__(self, app: ASGIApp, answers: MutableSequence[Answer]) -> None:
        self.app, self.answers = app, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path_format", "")
                self.answers.append(Answer(scope["method"], path, message["status"]))
            await send(message)

        await self.app(scope, receive, listen if scope["type"] == "http" else send)
