"""Chat templates with a fixed date."""

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
    """Render a template as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(globals_)
    return environment.from_string(template).render(messages=[])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (LLAMA, "Today Date: 26 Jul 2024"),
        (GPT_OSS, "Current date: 2024-07-26"),
        (VARIABLE, "\n2024"),  # the first newline belongs to the template
        (INDENTED, "2024"),
        (RENAMED, "26 July, 2023"),
        ("{% set f = '%' ~ 'Y' %}{{ strftime_now(f) }}", "26 Jul 2024"),  # the default format
    ],
    ids=["llama", "gpt-oss", "variable", "indented", "renamed", "computed"],
)
def test_template_prints_the_fixed_date(template: str, text: str) -> None:
    fixed = with_fixed_date(template)
    assert has_fixed_date(fixed)
    assert render(template, strftime_now=strftime) != text
    assert render(fixed, strftime_now=strftime) == text
    assert render(fixed) == text  # the renderer defines no strftime_now
    assert with_fixed_date(fixed) == fixed


def test_template_without_a_date_is_unchanged() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert with_fixed_date(template) == template
    assert not has_fixed_date(template)
