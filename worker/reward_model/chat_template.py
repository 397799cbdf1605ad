"""Chat templates, rendered within bounds: they come with a model, and one pair can take a machine.

transformers compiles them in an immutable sandbox, which bounds neither time nor memory: two nested
loops over range(99999) run for minutes, 'x' * 10**9 is a gigabyte.
"""

from __future__ import annotations

import mmap
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

#: Of the whole process, for one pair. A megabyte in 2,000 turns takes about 0.02 s.
CPU_SECONDS = 5.0
#: More memory to write to than before, for one pair.
MEMORY_BYTES = 512 << 20
#: Four times the longest line of a dataset.
MAX_CHARACTERS = 4 << 20


class TemplateTooCostlyError(Exception):
    """A chat template takes more than one pair may take."""


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[dict[str, Any]]],
    tools: list[Any] | None = None,
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """The text of each conversation of a pair; ``variables`` are those of the template.

    In the main thread only: the time limit is a signal.

    Raises:
        TemplateTooCostly
        ValueError, jinja2.TemplateError: the template cannot render it.
    """
    with _bounds():
        texts = [
            str(tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **variables))
            for chat in chats
        ]
    longest = max(map(len, texts))
    if longest > MAX_CHARACTERS:
        raise TemplateTooCostlyError(
            f"makes {longest} characters of it, more than {MAX_CHARACTERS}"
        )
    return texts


@contextmanager
def _bounds() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with open("/proc/self/statm", "rb", buffering=0) as file:
        room = int(file.read().split()[5]) * mmap.PAGESIZE + MEMORY_BYTES
    if soft != resource.RLIM_INFINITY:
        room = min(room, soft)
    handler = signal.signal(signal.SIGVTALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_DATA, (room, hard))
    # Processor time: a frozen or crowded machine is no fault of the template's.
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    except MemoryError as error:
        raise TemplateTooCostlyError(f"takes more than {MEMORY_BYTES >> 20} MiB for it") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.signal(signal.SIGVTALRM, handler)


def _too_long(*_: object) -> None:
    raise TemplateTooCostlyError(f"takes more than {CPU_SECONDS:g} s of processor time for it")
