"""How datasets of texts are tokenised, and variables of the chat template."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from transformers.utils.chat_template_utils import _compile_jinja_template

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.spec_problems import SpecRejectedError
from app.domain.templates import with_fixed_date, with_variables
from app.domain.text_format import DataForm
from tests.domain.base_model_facts import CONVERSATIONS, dataset, decoder, job

PROMPTED = {"format": "text", "prompt": "explicit", "is_rendered": False}
UNPROMPTED = PROMPTED | {"prompt": "implicit"}
RENDERED = PROMPTED | {"is_rendered": True}
MESSAGES = {"format": "conversational", "prompt": "implicit"}
EARLIER = {"format": "text", "prompt": "explicit"}


@pytest.mark.parametrize(
    ("asked", "summaries", "has_template", "resolved"),
    [
        ("auto", [PROMPTED], True, "chat"),
        ("auto", [EARLIER], True, "chat"),
        ("auto", [PROMPTED], False, "raw"),
        ("auto", [UNPROMPTED], True, "raw"),
        ("auto", [RENDERED], True, "raw"),
        ("auto", [PROMPTED, UNPROMPTED], True, "raw"),
        ("auto", [PROMPTED, MESSAGES], True, "chat"),
        ("auto", [MESSAGES, PROMPTED], False, "chat"),
        ("auto", [MESSAGES], True, None),
        ("chat", [MESSAGES], True, None),
        ("chat", [PROMPTED], False, "chat"),
        ("chat", [RENDERED], True, "chat"),
        ("raw", [PROMPTED], True, "raw"),
    ],
)
def test_resolved_text_format_is_in_the_plan(
    asked: str, summaries: list[dict[str, Any]], resolved: str | None, *, has_template: bool
) -> None:
    facts = decoder() if has_template else decoder(chat_template=None)
    spec = job(training={"text_format": asked})
    plan = compile_plan(spec, "hub", facts, JobData(dataset(), None, DataForm.of(*summaries)))
    tokens = plan.tokenization
    assert tokens.text_format == resolved
    is_raw = resolved == "raw"
    assert plan.data.format == ("text" if is_raw else "conversational")
    assert (tokens.chat_template is None, tokens.append_eos) == (is_raw, is_raw)
    assert ("text_format" in plan.model_dump()["tokenization"]) == (resolved is not None)


@pytest.mark.parametrize(
    ("training", "summaries", "loc", "code"),
    [
        ({"text_format": "raw"}, [MESSAGES], "/training/text_format", "text_format_unused"),
        ({"text_format": "chat"}, [UNPROMPTED], "/training/text_format", "prompt_missing"),
        ({"text_format": "raw"}, [PROMPTED, MESSAGES], "/eval_dataset", "format_differs"),
        ({}, [MESSAGES, UNPROMPTED], "/eval_dataset", "format_differs"),
        ({}, [RENDERED, MESSAGES], "/eval_dataset", "format_differs"),
    ],
)
def test_text_format_that_does_not_fit_is_rejected(
    training: dict[str, Any], summaries: list[dict[str, Any]], loc: str, code: str
) -> None:
    spec = job(training=training, eval_dataset="ds_" + "2" * 32)
    problems = DataForm.of(*summaries).problems(spec)
    assert [(problem.loc, problem.code) for problem in problems] == [(loc, code)]


def test_variables_without_a_chat_template_are_rejected() -> None:
    spec = job(training={"text_format": "raw", "chat_template_kwargs": {"think": False}})
    with pytest.raises(SpecRejectedError, match="/training/chat_template_kwargs"):
        compile_plan(spec, "hub", decoder(), JobData(dataset(), None, DataForm.of(PROMPTED)))


@pytest.mark.parametrize("clock", ["", "{{ strftime_now('%d') }}"])
def test_variables_are_defaults_of_the_template(clock: str) -> None:
    body = clock + "{% if think is defined and not think %}no{% endif %} {{ style }} {{ n + 1 }}"
    variables = {"think": False, "style": 'a "quoted" {{ text }}', "n": 2}
    template = _compile_jinja_template(with_fixed_date(with_variables(body, variables)))
    day = "26" if clock else ""
    assert template.render(messages=[]) == f'{day}no a "quoted" {{{{ text }}}} 3'
    assert template.render(messages=[], style="x", think=True) == f"{day} x 3"


def test_variables_of_a_job_are_in_the_template_of_the_plan() -> None:
    spec = job(training={"chat_template_kwargs": {"enable_thinking": False}})
    plan = compile_plan(spec, "hub", decoder(), JobData(dataset(), None, CONVERSATIONS))
    assert "set enable_thinking = false" in str(plan.tokenization.chat_template)


@pytest.mark.parametrize(
    "variables",
    [
        {"tools": "x"},
        {"tokenize": True},
        {"a b": 1},
        {"x": [1]},
        {"x": None},
        {"x": float("inf")},
        {f"v{n}": n for n in range(17)},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_variables_that_are_none_are_rejected(variables: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job(training={"chat_template_kwargs": variables})


OFF, ON = {"think": False}, {"think": True}


def giving(form: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """Return a dataset with these variables of the chat template."""
    return form | {"chat_template_kwargs": variables}


@pytest.mark.parametrize(
    ("own", "summaries", "resolved"),
    [
        ({}, [giving(MESSAGES, **OFF)], OFF),
        ({}, [giving(PROMPTED, **OFF)], OFF),
        ({}, [giving(MESSAGES, **OFF), MESSAGES], OFF),
        ({}, [giving(MESSAGES, **OFF), giving(MESSAGES, **OFF)], OFF),
        (ON, [giving(MESSAGES, **OFF), giving(MESSAGES, **OFF)], ON),
        (ON, [MESSAGES, giving(MESSAGES, **OFF)], ON),
        ({"style": "x"}, [giving(MESSAGES, **OFF)], OFF | {"style": "x"}),
        ({}, [giving(RENDERED, **OFF)], {}),
        ({}, [MESSAGES], {}),
    ],
)
def test_variables_of_a_dataset_hold_where_the_job_gives_none(
    own: dict[str, Any], summaries: list[dict[str, Any]], resolved: dict[str, Any]
) -> None:
    spec, form = job(training={"chat_template_kwargs": own}), DataForm.of(*summaries)
    assert list(form.problems(spec)) == []
    plan = compile_plan(spec, "hub", decoder(), JobData(dataset(), None, form))
    tokens = plan.tokenization
    assert tokens.chat_template_kwargs == resolved
    for name, value in resolved.items():
        assert f"set {name} = {json.dumps(value)}" in str(tokens.chat_template)
    assert ("chat_template_kwargs" in plan.model_dump()["tokenization"]) == bool(resolved)


@pytest.mark.parametrize(
    ("training", "evaluation", "says"),
    [
        (OFF, ON, "to true, which is false in the training dataset"),
        ({}, OFF, "to false, which is not set in the training dataset"),
        ({"think": 1}, ON, "to true, which is 1 in"),
    ],
)
def test_datasets_that_set_a_variable_differently_are_rejected(
    training: dict[str, Any], evaluation: dict[str, Any], says: str
) -> None:
    form = DataForm.of(giving(MESSAGES, **training), giving(MESSAGES, **evaluation))
    (problem,) = form.problems(job())
    assert problem.loc == "/training/chat_template_kwargs/think"
    assert problem.code == "template_variables_differ"
    assert says in problem.message
    assert list(form.problems(job(training={"chat_template_kwargs": OFF}))) == []
