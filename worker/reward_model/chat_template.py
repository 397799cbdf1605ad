"""Render chat templates with limits on time and memory.

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
from transformers.utils.chat_template_utils import _compile_jinja_template

from worker.reward_model.process_limits import data_limit

#: CPU seconds of the process for one pair. A megabyte in 2,000 turns takes about 0.02 s.
CPU_SECONDS = 5.0
#: Additional writable memory for one pair.
MEMORY_BYTES = 512 << 20
#: Number of conversations that transformers renders as well, to compare the texts.
COMPARED_CHATS = 16
#: Limit on a rendered text: four times the longest line of a dataset.
MAX_CHARACTERS = 4 << 20


class TemplateTooCostlyError(Exception):
    """A chat template exceeds the limits for one pair."""


class ChatRenderer:
    """Renders conversations with the chat template of a tokenizer.

    transformers copies every conversation, reads the tokenizer's special tokens again and looks for
    media, which takes several times as long as the template itself. The rows of a dataset are plain
    JSON, so they are passed to the compiled template directly. The first conversations are rendered
    in both ways; if the texts differ, transformers renders all.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._to_compare = COMPARED_CHATS
        self._is_direct = True
        self._special_tokens = dict(tokenizer.special_tokens_map)

    def render(
        self,
        chats: Sequence[list[dict[str, Any]]],
        tools: list[Any] | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[str]:
        """Render the conversations of one row.

        Call it from the main thread only: the time limit uses a signal.

        Raises:
            TemplateTooCostlyError: the template exceeds a limit.
            ValueError, jinja2.TemplateError: the template cannot render a conversation.
        """
        with template_limits():
            texts = [self._text(chat, tools, variables) for chat in chats]
        longest = max(map(len, texts))
        if longest > MAX_CHARACTERS:
            raise TemplateTooCostlyError(
                f"renders {longest} characters; at most {MAX_CHARACTERS} are allowed"
            )
        return texts

    def _text(
        self, chat: list[dict[str, Any]], tools: list[Any] | None, variables: Mapping[str, Any]
    ) -> str:
        if not self._is_direct:
            return self._by_transformers(chat, tools, variables)
        text = self._directly(chat, tools, variables)
        if self._to_compare:
            self._to_compare -= 1
            if text != (slow := self._by_transformers(chat, tools, variables)):
                self._is_direct = False
                return slow
        return text

    def _directly(
        self, chat: list[dict[str, Any]], tools: list[Any] | None, variables: Mapping[str, Any]
    ) -> str:
        """Render as ``apply_chat_template`` of transformers 5.23 does, without its copies."""
        template = _compile_jinja_template(self._tokenizer.get_chat_template(tools=tools))
        text: str = template.render(
            messages=[_without_nulls(message) for message in chat],
            tools=tools,
            documents=None,
            add_generation_prompt=False,
            **{**self._special_tokens, **variables},
        )
        return text

    def _by_transformers(
        self, chat: list[dict[str, Any]], tools: list[Any] | None, variables: Mapping[str, Any]
    ) -> str:
        return str(
            self._tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **variables)
        )


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Remove null values, and add the reasoning under the name that gpt-oss reads."""
    if None in message.values():
        message = {key: value for key, value in message.items() if value is not None}
    if (reasoning := message.get("reasoning_content")) is not None and "thinking" not in message:
        return {**message, "thinking": reasoning}
    return message


_are_limits_set = False


@contextmanager
def template_limits() -> Iterator[None]:
    """Limit the time of one row, and the memory of all rows within the outermost block.

    Setting the limits takes longer than rendering a short row. Callers with many rows should enter
    the block once around all of them.

    Raises:
        TemplateTooCostlyError: a limit is exceeded.
    """
    global _are_limits_set
    if _are_limits_set:
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        with _memory_errors_named():
            yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGVTALRM, _raise_too_slow)
    resource.setrlimit(resource.RLIMIT_DATA, (data_limit(MEMORY_BYTES), hard))
    # CPU time, not wall-clock time, so that a busy machine does not cause the error.
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    _are_limits_set = True
    try:
        with _memory_errors_named():
            yield
    finally:
        _are_limits_set = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGVTALRM, handler)


@contextmanager
def _memory_errors_named() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise TemplateTooCostlyError(
            f"needs more than {MEMORY_BYTES >> 20} MiB of memory"
        ) from error


def _raise_too_slow(*_: object) -> None:
    raise TemplateTooCostlyError(f"needs more than {CPU_SECONDS:g} s of CPU time")
