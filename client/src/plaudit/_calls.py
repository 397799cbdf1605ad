"""Requests as data, and the interpretation of responses. Shared by both clients; does no I/O."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from plaudit._model import Model
from plaudit.errors import (
    APIError,
    ConnectionFailedError,
    FieldError,
    RequestTimeoutError,
    UnexpectedResponseError,
    error_class,
)
from plaudit.models import Problem
from plaudit.retries import Retries, retry_after

M = TypeVar("M", bound=Model)

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)
_NO_CONNECTION = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    """Parameters; those that are None are left out."""
    body: object = None
    """Sent as JSON unless it is None."""
    chunks: Callable[[], Iterator[bytes]] | None = None
    """Makes the bytes of an upload, anew for every attempt."""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    """Whether a second attempt after a lost answer does no harm."""
    read_seconds: float | None = None
    """How long to wait for the answer, where that is longer than usual."""
    retries: Retries | None = None
    """In place of the client's."""

    def parameters(self) -> dict[str, str]:
        """The query as text."""
        return {name: _text(value) for name, value in self.query.items() if value is not None}

    def content(self) -> bytes | None:
        """The body as JSON."""
        return None if self.body is None else to_json(self.body)

    def all_headers(self) -> dict[str, str]:
        """The headers, with the content type of a JSON body."""
        kind = {} if self.body is None else {"Content-Type": "application/json"}
        return {**kind, **self.headers}


def path(template: str, *ids: str) -> str:
    """An address with ids in the places of ``{}``.

    Raises:
        TypeError, ValueError: what is given is no id: it could lead to another address.
    """
    for value in ids:
        if not isinstance(value, str):
            raise TypeError(f"An id is a str, not {type(value).__name__}: {value!r}.")
        if not _ID.fullmatch(value):
            raise ValueError(f"{value!r} is not an id.")
    return template.format(*ids)


def to_json(body: object) -> bytes:
    """JSON of mappings, lists, models and scalars.

    Raises:
        TypeError, ValueError: JSON has no form of it, such as for NaN.
    """
    try:
        text = json.dumps(body, default=_plain, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"The request has no JSON form: {error}.") from error
    return text.encode("utf-8", "surrogatepass")  # which the service refuses, naming the field


def document(response: httpx.Response) -> Any:
    """The JSON of an answer.

    Raises:
        UnexpectedResponseError: it is none.
    """
    try:
        return response.json()
    except ValueError as error:
        raise unexpected(response, "not JSON") from error


def parse(model: type[M], response: httpx.Response) -> M:
    """The model of an answer.

    Raises:
        UnexpectedResponseError: it has another form.
    """
    return parse_item(model, document(response), response)


def parse_item(model: type[M], item: Any, response: httpx.Response) -> M:
    """The model of a part of an answer."""
    try:
        return model.of_answer(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        reason = f"not a {model.__name__}: {where or 'it'}: {first['msg']}"
        raise unexpected(response, reason) from error


def check(response: httpx.Response) -> None:
    """Raise what the answer says, unless it is a success; its body must have been read.

    Raises:
        APIError: the service refused.
        UnexpectedResponseError: a redirect: the API key is not sent elsewhere.
    """
    status = response.status_code
    if response.is_success or status == HTTPStatus.NOT_MODIFIED:
        return
    if response.is_redirect:
        target = response.headers.get("Location", "nowhere")
        raise unexpected(response, f"a redirect to {target}, which the client does not follow")
    if status < HTTPStatus.BAD_REQUEST:
        raise unexpected(response, f"a status {status}")
    raise _refusal(response)


def no_answer(url: str, error: httpx.RequestError) -> ConnectionFailedError:
    """What a failure of the connection means."""
    reason = str(error) or type(error).__name__
    was_sent = not isinstance(error, _NO_CONNECTION)
    if isinstance(error, httpx.TimeoutException):
        return RequestTimeoutError(
            f"No answer from {url} in time ({type(error).__name__}).", was_sent=was_sent
        )
    what = f"The connection to {url} broke off" if was_sent else f"No answer from {url}"
    return ConnectionFailedError(f"{what}: {reason}.", was_sent=was_sent)


def is_hopeless(error: BaseException) -> bool:
    """Whether no further attempt can reach the service: its certificate is not trusted."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def unexpected(response: httpx.Response, reason: str) -> UnexpectedResponseError:
    """Return the error for a response that Plaudit did not send."""
    return UnexpectedResponseError(
        f"{response.request.url.copy_with(query=None)} gave no answer of Plaudit's: {reason}.",
        hint="Check that the client's url is the address of the service.",
    )


def _refusal(response: httpx.Response) -> APIError:
    try:
        problem = Problem.model_validate(response.json())
    except ValueError:  # a page of something in between
        phrase = f"{response.status_code} {response.reason_phrase}".strip()
        kind = error_class(response.status_code, "unknown")
        text = f"{response.request.url.copy_with(query=None)} answered {phrase}."
        error = kind(response.status_code, "unknown", text)
    else:
        kind = error_class(response.status_code, problem.code)
        error = kind(
            response.status_code,
            problem.code,
            problem.detail,
            hint=problem.hint,
            title=problem.title,
        )
        error.errors = tuple(
            FieldError(item.loc, item.code, item.message, item.hint) for item in problem.errors
        )
        error.request_id = problem.request_id or None
    headers = response.headers
    error.request_id = error.request_id or headers.get("x-request-id")
    error.retry_after = retry_after(headers.get("Retry-After"))
    if (advice := headers.get("x-should-retry")) in ("true", "false"):
        error.should_retry = advice == "true"
    return error


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise TypeError(f"A parameter is text or a number, not {type(value).__name__}.")
    return str(value)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"The request has no JSON form: {type(value).__name__} is no JSON type.")
