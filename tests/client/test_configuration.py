"""URL and API key of the client; the key is never shown."""

from __future__ import annotations

import io
import re
import traceback
from pathlib import Path

import pytest

from plaudit import (
    AsyncPlaudit,
    ConfigurationError,
    Plaudit,
    PlauditError,
    Retries,
    UnexpectedResponseError,
)
from plaudit._progress import ProgressLine
from plaudit._sse import EventDecoder, ServerEvent
from plaudit.models import JobRead
from tests.client.samples import sample
from tests.client.scripted import Answer, scripted

URL = "http://127.0.0.1:8000"
ONCE = Retries(attempts=1)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLAUDIT_URL", raising=False)
    monkeypatch.delenv("PLAUDIT_API_KEY", raising=False)


@pytest.mark.parametrize("kind", [Plaudit, AsyncPlaudit])
def test_arguments_go_before_the_environment(
    kind: type[Plaudit], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="PLAUDIT_URL"):
        kind(api_key="plk_x")
    with pytest.raises(ConfigurationError, match="PLAUDIT_API_KEY"):
        kind(URL)
    monkeypatch.setenv("PLAUDIT_URL", f"{URL}/")
    monkeypatch.setenv("PLAUDIT_API_KEY", "plk_environment\n")
    assert kind().url == URL
    assert kind("https://plaudit.example").url == "https://plaudit.example"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://[::1", "plk_secret"),
        ("localhost:8000", "plk_secret"),
        ("ftp://127.0.0.1", "plk_secret"),
        ("/v1", "plk_secret"),
        ("http://user:secret@127.0.0.1", "plk_secret"),
        ("http://127.0.0.1?key=secret", "plk_secret"),
        (URL, "plk_\x7fsecret"),
        (URL, "plk_secret…"),
        (URL, "plk secret"),
        (URL, ""),
    ],
)
def test_what_cannot_be_used_is_named_and_not_shown(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Plaudit(url, key)
    assert "secret" not in str(caught.value)
    assert re.search("url|key", str(caught.value))


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        Plaudit(URL, "plk_x", timeout=timeout)


def test_key_is_in_no_representation_and_no_traceback() -> None:
    with scripted(Answer(500, b"boom")) as server:
        client = Plaudit(server.url, "plk_secret", retries=ONCE)
        with pytest.raises(PlauditError) as caught:
            client.health()
        shown = [*traceback.format_exception(caught.value), repr(client), repr(vars(client))]
        client.close()
    assert "plk_secret" not in "".join(shown)
    assert "returned 500" in str(caught.value)


def test_client_does_not_follow_redirects() -> None:
    """The API key must not be sent to another host."""
    with scripted(Answer(302, headers={"Location": "http://elsewhere.example/"})) as server:
        client = Plaudit(server.url, "plk_x", retries=ONCE)
        with pytest.raises(UnexpectedResponseError, match=r"elsewhere\.example"):
            client.health()
        client.close()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>Sign in</html>", "not JSON"),
        (b"[]", "not a JobRead|not a Job"),
        ({"id": "job_1"}, "Field required"),
    ],
)
def test_somebody_elses_answer_is_told(body: object, reason: str) -> None:
    with scripted(Answer(200, body)) as server:
        client = Plaudit(server.url, "plk_x", retries=ONCE)
        with pytest.raises(UnexpectedResponseError, match=reason) as caught:
            client.jobs.get("job_1")
        with pytest.raises(UnexpectedResponseError):
            list(client.jobs.list())
        with pytest.raises(UnexpectedResponseError, match="no"):
            list(client.jobs.events("job_1"))
        client.close()
    assert "url" in str(caught.value.hint)


@pytest.mark.parametrize("value", [float("nan"), object(), {1: float("inf")}])
def test_spec_without_a_json_form_is_refused_before_it_is_sent(value: object) -> None:
    client = Plaudit(URL, "plk_x")
    with pytest.raises((TypeError, ValueError), match="JSON"):
        client.jobs.create({"base_model": value})
    client.close()


EVENTS = (
    b"retry: 2000\n\n: a comment\n\n"
    b'event: queued\nid: 1\ndata: {"a":\ndata: 1}\n\n'
    b"id: 2\ndata: x\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_decoded_however_they_are_cut(size: int, end: bytes) -> None:
    decoder = EventDecoder()
    text = EVENTS.replace(b"\n", end)
    found = [e for i in range(0, len(text), size) for e in decoder.feed(text[i : i + size])]
    found += decoder.feed(b"\n")  # a carriage return at the end may be half of a line's end
    assert found == [
        ServerEvent("queued", '{"a":\n1}', "1"),
        ServerEvent("message", "x", "2"),
    ]
    assert decoder.retry_seconds == 2


def test_characters_that_only_look_like_line_ends_stay() -> None:
    data = "a\u2028b\x0bc\x85d"
    (event,) = EventDecoder().feed(f"data: {data}\n\n".encode())
    assert event.data == data


def job_at(step: int, status: str = "running", phase: str | None = "training") -> JobRead:
    progress: dict[str, float | None] = {"step": step, "total_steps": 9, "epoch": 0.1}
    progress |= {"seconds_left": 12.4, "rows_done": None, "rows_total": None}
    job = sample({"$ref": "/JobRead"})
    return JobRead.model_validate(job | {"status": status, "phase": phase, "progress": progress})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_its_line_on_a_terminal() -> None:
    stream = Terminal()
    line = ProgressLine(stream)
    line(job_at(1))
    line(job_at(9, "succeeded", None))
    line.close()
    first, second = stream.getvalue().lstrip("\r").split("\r")
    assert first == "text  running, training  step 1 of 9  about 12 s left"
    assert second.rstrip(" \n") == "text  succeeded  step 9 of 9"
    assert len(second.rstrip("\n")) == len(first)


def test_progress_elsewhere_is_a_line_a_change() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for job in (job_at(1), job_at(2), job_at(3, phase="saving"), job_at(9, "succeeded", None)):
        line(job)
    line.close()
    assert [text.split("  ")[1] for text in stream.getvalue().splitlines()] == [
        "running, training",
        "running, saving",
        "succeeded",
    ]


def test_package_is_marked_as_typed() -> None:
    import plaudit

    assert (Path(plaudit.__file__).parent / "py.typed").is_file()
