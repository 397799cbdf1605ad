"""Render chat templates within limits of time and memory.

A chat template is code that comes with a base model. transformers compiles it in an immutable
sandbox, which limits neither time nor memory: two nested loops over range(99999) run for minutes,
and 'x' * 10**9 takes a gigabyte.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from worker.reward_model.process_limits import data_limit

#: CPU seconds of the process for one pair. A megabyte in 2,000 turns takes about 0.02 s.
CPU_SECONDS = 5.0
#: Additional writable memory for one pair.
MEMORY_BYTES = 512 << 20
#: Four times the longest line of a dataset.
MAX_CHARACTERS = 4 << 20


class TemplateTooCostlyError(Exception):
    """A chat template exceeds the limits for one pair."""


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[dict[str, Any]]],
    tools: list[Any] | None = None,
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Render the conversations of one pair.

    Call it from the main thread only: the time limit uses a signal.

    Raises:
        TemplateTooCostlyError: the template exceeds a limit.
        ValueError, jinja2.TemplateError: the template cannot render a conversation.
    """
    with _limits():
        texts = [
            str(tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **variables))
            for chat in chats
        ]
    longest = max(map(len, texts))
    if longest > MAX_CHARACTERS:
        raise TemplateTooCostlyError(
            f"renders {longest} characters; at most {MAX_CHARACTERS} are allowed"
        )
    return texts


@contextmanager
def _limits() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGVTALRM, _raise_too_slow)
    resource.setrlimit(resource.RLIMIT_DATA, (data_limit(MEMORY_BYTES), hard))
    # CPU time and not wall-clock time: the template is not to blame for a busy machine.
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    except MemoryError as error:
        raise TemplateTooCostlyError(
            f"needs more than {MEMORY_BYTES >> 20} MiB of memory"
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGVTALRM, handler)


def _raise_too_slow(*_: object) -> None:
    raise TemplateTooCostlyError(f"needs more than {CPU_SECONDS:g} s of CPU time")
