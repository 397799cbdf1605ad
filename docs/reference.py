"""Generate the parts of the documentation that are derived from the code.

openapi.json, errors.md, the table of settings in operations.md, and the shapes in data.md.

    python -m docs.reference
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import get_args

from app.core.settings import Settings
from app.datasets.row_errors import ProblemCode
from app.domain.lifecycle import FAILURES
from app.domain.warnings import WARNING_ADVICE, WarningCode
from app.main import create_app
from app.web.problem_details import ProblemType, problem_types
from app.web.validation_errors import FIELD_CODES
from docs.data_reference import data_text

HERE = Path(__file__).parent

SETTINGS_BEGIN, SETTINGS_END = "<!-- settings: `make openapi` -->\n", "<!-- end of settings -->\n"

INTRODUCTION = """\
# Errors

This page is generated from the code by `make openapi`. A test fails when it is out of date.

Every error response is `application/problem+json` (RFC 9457) with these fields:

- `code`: the kind of error. Its meaning never changes; use it in programs.
- `detail` and `hint`: what happened and what to do next, for people.
- `errors`: the invalid fields. `loc` is a JSON pointer into the body, or starts with `/query/`,
  `/path/` or `/header/` for parameters.
- `request_id`: identifies the request in the service's logs.
- `type`: the URL `GET /problems/{code}` of this service, which explains the code.

The header `x-should-retry: false` means that the same request will fail again. `Retry-After` gives
the number of seconds after which a retry may succeed.

## Problems
"""


def main() -> None:
    (HERE / "openapi.json").write_text(openapi_text())
    (HERE / "errors.md").write_text(errors_text())
    (HERE / "operations.md").write_text(operations_text())
    (HERE / "data.md").write_text(data_text())


def openapi_text() -> str:
    """Return the OpenAPI document in the form in which it is committed."""
    with tempfile.TemporaryDirectory() as name:
        document = create_app(Settings(data_dir=Path(name), _env_file=None)).openapi()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def operations_text() -> str:
    """Return operations.md with its table of settings regenerated."""
    before, _, rest = (HERE / "operations.md").read_text().partition(SETTINGS_BEGIN)
    _, _, after = rest.partition(SETTINGS_END)
    return f"{before}{SETTINGS_BEGIN}{settings_table()}{SETTINGS_END}{after}"


def settings_table() -> str:
    """Return a Markdown table of every setting with its default."""
    lines = ["| variable | default | description |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        if default is None or default == frozenset():
            shown = "none"
        lines.append(f"| `PLAUDIT_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def errors_text() -> str:
    """Return errors.md: every code of problems, failed jobs, warnings and fields."""
    lines = [
        INTRODUCTION,
        "| code | status | meaning | what to do next |",
        "|---|---|---|---|",
        *(_row(problem) for problem in problem_types()),
        "",
        "## Failed jobs",
        "",
        "These are the values of a job's `failure.code`. `failure.category` tells who can fix the",
        "cause. The service retries a job with a retryable failure before it fails the job.",
        "",
        "| code | category | retried | what to do next |",
        "|---|---|---|---|",
        *(
            f"| `{code}` | {failure.category} | {'yes' if failure.is_retryable else 'no'} "
            f"| {failure.hint} |"
            for code, failure in FAILURES.items()
        ),
        "",
        "## Warnings",
        "",
        "These are the values of `warnings[].code` of a job or a dry run. A warning does not stop",
        "a job.",
        "",
        "| code | what to do next |",
        "|---|---|",
        *(f"| `{code}` | {WARNING_ADVICE[code]} |" for code in WarningCode),
        "",
        "## Fields",
        "",
        "These are the values of `errors[].code`; each entry also has a message and a hint. In a",
        "body or parameter (other Pydantic validations keep Pydantic's own code):",
        "",
        _listed(sorted(FIELD_CODES)),
        "",
        "In an uploaded dataset, where `loc` contains the line number:",
        "",
        _listed(sorted(get_args(ProblemCode))),
    ]
    return "\n".join(lines) + "\n"


def _row(problem: ProblemType) -> str:
    return f"| `{problem.code}` | {problem.status} | {problem.when} | {problem.next_step} |"


def _listed(codes: list[str]) -> str:
    return ", ".join(f"`{code}`" for code in codes) + "."


if __name__ == "__main__":
    main()
