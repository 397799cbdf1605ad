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
    InvalidArgumentError,
    RequestTimeoutError,
    UnexpectedResponseError,
    error_class,
)
from plaudit.models import Problem
from plaudit.retries import Retries, retry_after

M = TypeVar("M", bound=Model)

_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)
_NO_CONNECTION = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Call:
    """A request to the service."""

    method: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    """Query parameters; values that are None are omitted."""
    body: object = None
    """JSON body; None sends no body."""
    chunks: Callable[[], Iterator[bytes]] | None = None
    """Returns a new iterator over the bytes of an upload for every attempt."""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True
    """Whether the request may be sent again after its response was lost."""
    read_seconds: float | None = None
    """Read timeout in seconds; None: that of the client."""
    retries: Retries | None = None
    """Retry settings; None: those of the client."""

    def parameters(self) -> dict[str, str]:
        """Return the query parameters as text."""
        return {name: _text(value) for name, value in self.query.items() if value is not None}

    def content(self) -> bytes | None:
        """Return the body encoded as JSON."""
        return None if self.body is None else to_json(self.body)

    def all_headers(self) -> dict[str, str]:
        """Return the headers, including the content type of a JSON body.

        Raises:
            InvalidArgumentError: a value has characters that a header cannot have.
        """
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(value):
                raise InvalidArgumentError(
                    f"{value!r} cannot be sent as {name}: use printable ASCII characters."
                )
        kind = {} if self.body is None else {"Content-Type": "application/json"}
        return {**kind, **self.headers}


def path(template: str, *ids: str) -> str:
    """Return the URL path with ids in place of ``{}``.

    Raises:
        TypeError, ValueError: a value is not an id, and could change the path.
    """
    for value in ids:
        if not isinstance(value, str):
            raise TypeError(f"An id must be a str, not {type(value).__name__}: {value!r}.")
        if not _ID.fullmatch(value):
            raise InvalidArgumentError(
                f"{value!r} is not an id.", hint="Ids have only letters, digits, '.', '_' and '-'."
            )
    return template.format(*ids)


def to_json(body: object) -> bytes:
    """Encode mappings, lists, models and scalars as JSON.

    Raises:
        TypeError, ValueError: a value has no representation in JSON, such as NaN.
    """
    try:
        text = json.dumps(body, default=_plain, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise InvalidArgumentError(f"The request cannot be encoded as JSON: {reason}.") from error
    # Lone surrogates are sent as they are: the service rejects them and names the field.
    return text.encode("utf-8", "surrogatepass")


def document(response: httpx.Response) -> Any:
    """Return the decoded JSON body of a response.

    Raises:
        UnexpectedResponseError: the body is not JSON.
    """
    try:
        return response.json()
    except ValueError as error:
        raise unexpected(response, "its body is not JSON") from error


def parse(model: type[M], response: httpx.Response) -> M:
    """Parse the body of a response as ``model``.

    Raises:
        UnexpectedResponseError: the body does not match the model.
    """
    return parse_item(model, document(response), response)


def parse_item(model: type[M], item: Any, response: httpx.Response) -> M:
    """Parse a part of a response as ``model``.

    Raises:
        UnexpectedResponseError: the part does not match the model.
    """
    try:
        return model.of_answer(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"]))
        reason = f"it is not a {model.__name__}: {where or 'the document'}: {first['msg']}"
        raise unexpected(response, reason) from error


def check(response: httpx.Response) -> None:
    """Raise the error that a response reports. Its body must have been read.

    Raises:
        APIError: the service refused the request.
        UnexpectedResponseError: the response is a redirect, which is not followed because the API
            key must not be sent to another host; or it is a 304 that was not requested.
    """
    status = response.status_code
    is_unchanged = status == HTTPStatus.NOT_MODIFIED
    if response.is_success or (is_unchanged and "If-None-Match" in response.request.headers):
        return
    if response.is_redirect and not is_unchanged:
        target = response.headers.get("Location", "nowhere")
        raise unexpected(response, f"it redirects to {target}, which the client does not follow")
    if status < HTTPStatus.BAD_REQUEST:
        raise unexpected(response, f"it has the status {status}")
    raise _api_error(response)


def connection_error(url: str, error: httpx.RequestError) -> ConnectionFailedError:
    """Return the client's error for a failed connection or a timeout."""
    reason = (str(error) or type(error).__name__).rstrip(".")
    was_sent = not isinstance(error, _NO_CONNECTION)
    if isinstance(error, httpx.TimeoutException):
        return RequestTimeoutError(
            f"{url} did not respond in time ({type(error).__name__}).", was_sent=was_sent
        )
    what = f"The connection to {url} was lost" if was_sent else f"Cannot connect to {url}"
    return ConnectionFailedError(f"{what}: {reason}.", was_sent=was_sent)


def is_certificate_error(error: BaseException) -> bool:
    """Return whether the service's TLS certificate is not trusted: a retry cannot help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def json_lines(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the objects of a response with JSON lines.

    Raises:
        UnexpectedResponseError: a line is not a JSON object.
    """
    try:
        found = [json.loads(line) for line in response.content.split(b"\n") if line]
    except ValueError as error:
        raise unexpected(response, "its body is not JSON lines") from error
    if not all(isinstance(row, dict) for row in found):
        raise unexpected(response, "its lines are not JSON objects")
    return found


def unexpected(response: httpx.Response, reason: str) -> UnexpectedResponseError:
    """Return the error for a response that Plaudit did not send."""
    return UnexpectedResponseError(
        f"The response of {response.request.url.copy_with(query=None)} is not from Plaudit: "
        f"{reason}.",
        hint="Check that the client's url is the URL of the service.",
    )


def _api_error(response: httpx.Response) -> APIError:
    try:
        problem = Problem.model_validate(response.json())
    except ValueError:  # sent by something in between, such as a proxy
        phrase = f"{response.status_code} {response.reason_phrase}".strip()
        kind = error_class(response.status_code, "unknown")
        text = f"{response.request.url.copy_with(query=None)} returned {phrase}."
        hint = "Plaudit did not send this response. Check the client's url, and proxies before it."
        error = kind(response.status_code, "unknown", text, hint=hint)
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
        raise TypeError(f"A query parameter must be text or a number, not {type(value).__name__}.")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"{text!r} is not valid Unicode text.") from error
    return text


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(
        f"The request cannot be encoded as JSON: {type(value).__name__} is not a JSON type."
    )
