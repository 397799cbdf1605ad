from __future__ import annotations

from time import strftime
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.domain.templates import has_fixed_date, with_fixed_date

LLAMA = """\
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "never" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string }}"""
GPT_OSS = """\
{%- macro system() %}{{ "Current date: " + strftime_now('%Y-%m-%d') }}{% endmacro -%}
{{ system() }}"""
VARIABLE = "\n{% set f = '%Y' %}{{ strftime_now(f) }}\n"
INDENTED = "  {# its date #}\n  {% if true %}{{ strftime_now('%Y') }}{% endif %}"
RENAMED = """{% set now = strftime_now %}{{ now("%d %B") }}, {{ now ('%Y') | int - 1 }}"""


def render(template: str, **globals_: Any) -> str:
    """As transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(globals_)
    return environment.from_string(template).render(messages=[])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, "Today Date: 26 Jul 2024"),
        (GPT_OSS, "Current date: 2024-07-26"),
        (VARIABLE, "\n2024"),  # its first newline is its own
        (INDENTED, "2024"),
        (RENAMED, "26 July, 2023"),
        ("{% set f = '%' ~ 'Y' %}{{ strftime_now(f) }}", "26 Jul 2024"),  # the usual one
    ],
    ids=["llama", "gpt-oss", "variable", "indented", "renamed", "made up"],
)
def test_template_that_asks_for_today_always_gets_the_same_day(template: str, text: str) -> None:
    stopped = with_fixed_date(template)
    assert has_fixed_date(stopped)
    assert render(template, strftime_now=strftime) != text
    assert render(stopped, strftime_now=strftime) == text
    assert render(stopped) == text  # where a renderer has no clock to offer
    assert with_fixed_date(stopped) == stopped


def test_other_templates_are_left_as_they_are() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert with_fixed_date(template) == template
    assert not has_fixed_date(template)
