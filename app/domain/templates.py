"""Chat templates: a default template, and a fixed date for templates that print today's date."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date

from app.domain.plan import BaseModelFacts

#: The body of the chat template for models without their own, such as encoders.
PLAIN_LINES = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
#: The date that templates print as today's. Those of Llama 3 use it if strftime_now is undefined.
FIXED_DAY = date(2024, 7, 26)
_CLOCK = "strftime_now"
#: String literals that may be a date format, including those that a template keeps in a variable.
_FORMAT = re.compile(r""""([^"{}]*%[^"{}]*)"|'([^'{}]*%[^'{}]*)'""")
_FIXED = f"{{% macro {_CLOCK}(format) %}}"


def plain_template(facts: BaseModelFacts, pad_token: str) -> str:
    """Return a template of "role: content" lines for models without a chat template.

    The lines are enclosed in the tokens that the model's tokenizer adds around a text; encoders
    read their score at such a token ([CLS]). A final token that is also the pad token is left out,
    because it would move the position of the score.
    """
    before, after = facts.tokens_around
    if after.endswith(pad_token):
        after = ""
    return _literal(before) + PLAIN_LINES + _literal(after)


def with_fixed_date(template: str) -> str:
    """Return the template with ``strftime_now`` redefined to always return FIXED_DAY.

    Templates of Llama 3.2, Llama 3.3 and gpt-oss print today's date in every conversation. Without
    this change, a run that is resumed after midnight would train on other tokens, and the adapter
    would score the same pair differently every day.
    """
    if _CLOCK not in template or has_fixed_date(template):
        return template
    usual = "%d %b %Y"
    formats = [usual, *(one or other for one, other in _FORMAT.findall(template))]
    days = {f: FIXED_DAY.strftime(f) for f in formats}
    answer = f"{{{{ {json.dumps(days)}.get(format, {json.dumps(days[usual])}) }}}}"
    # trim_blocks removes the newline after the macro, so the template still begins at the start of
    # a line: lstrip_blocks strips its indentation, and its own first newline is kept.
    return f"{_FIXED}{answer}{{% endmacro %}}\n{template}"


def with_variables(template: str, variables: Mapping[str, str | float | bool]) -> str:
    """Return the template with defaults for some of its variables.

    They become a part of the template, so that every program that scores with it renders the same
    texts.
    """
    defaults = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {json.dumps(value)} %}}{{% endif %}}"
        for name, value in sorted(variables.items())
    )
    # trim_blocks removes the newline, so the template still begins at the start of a line.
    return f"{defaults}\n{template}" if defaults else template


def has_fixed_date(template: str) -> bool:
    """Return whether ``with_fixed_date`` changed the template."""
    return template.startswith(_FIXED)


def _literal(text: str) -> str:
    return f"{{{{ {json.dumps(text)} }}}}" if text else ""
