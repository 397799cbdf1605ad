"""Chat templates: one for models without their own, and none that reads the clock."""

from __future__ import annotations

import json
import re
from datetime import date

from app.domain.plan import BaseModelFacts

#: The middle of a chat template for models without one of their own, encoders for example.
PLAIN_LINES = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
#: Of one that comes with a model or stands in the catalogue: it runs for every pair.
MAX_TEMPLATE_BYTES = 64 << 10
#: Today, for a template that asks: what those of Llama 3 fall back to where there is no clock.
FIXED_DAY = date(2024, 7, 26)
_CLOCK = "strftime_now"
#: Any text that may be one: a template can keep its format in a variable.
_FORMAT = re.compile(r""""([^"{}]*%[^"{}]*)"|'([^'{}]*%[^'{}]*)'""")
_STOPPED = f"{{% macro {_CLOCK}(format) %}}"


def plain_template(facts: BaseModelFacts, pad_token: str) -> str:
    """ "role: content" lines between the tokens that this model's tokenizer puts around a text.

    An encoder reads its score at [CLS]. A last token that also pads would move the score, so such
    a one is left out.
    """
    before, after = facts.tokens_around
    if after.endswith(pad_token):
        after = ""
    return _literal(before) + PLAIN_LINES + _literal(after)


def with_stopped_clock(template: str) -> str:
    """The template with ``strftime_now`` always giving FIXED_DAY, in the formats it asks for.

    Templates of Llama 3.2, Llama 3.3 and gpt-oss write today's date into every conversation: a run
    that is resumed after midnight would train on other tokens, and the adapter would score the
    same pair differently every day.
    """
    if _CLOCK not in template or has_stopped_clock(template):
        return template
    usual = "%d %b %Y"
    formats = [usual, *(one or other for one, other in _FORMAT.findall(template))]
    days = {f: FIXED_DAY.strftime(f) for f in formats}
    answer = f"{{{{ {json.dumps(days)}.get(format, {json.dumps(days[usual])}) }}}}"
    # The newline is trimmed with the tag, so that the template still begins at the start of a line:
    # there its own indentation is taken off, and its own first newline kept.
    return f"{_STOPPED}{answer}{{% endmacro %}}\n{template}"


def has_stopped_clock(template: str) -> bool:
    """Whether ``with_stopped_clock`` changed it."""
    return template.startswith(_STOPPED)


def _literal(text: str) -> str:
    return f"{{{{ {json.dumps(text)} }}}}" if text else ""
