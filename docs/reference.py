"""Writes the parts of the documentation that the code already says.

openapi.json, errors.md, the table of settings in operations.md, and the shapes in data.md.

python -m docs.reference
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import get_args

from app.datasets.row_errors import ProblemCode
from app.domain.lifecycle import FAILURES
from app.domain.notes import NOTES, NoteCode
from app.field_problems import FIELD_CODES
from app.main import create_app
from app.problems import ProblemType, problem_types
from app.settings import Settings
from docs.data_reference import data_text

HERE = Path(__file__).parent

SETTINGS_BEGIN, SETTINGS_END = "<!-- settings: `make openapi` -->\n", "<!-- end of settings -->\n"

INTRODUCTION = """\
# Errors

Made by `make openapi` from the code; a test keeps it true.

Every refusal is `application/problem+json` (RFC 9457) in one shape. Switch on `code`, which never
changes its meaning; `detail` and `hint` are for people. `errors` names the fields: `loc` is a JSON
pointer into the body (`/query/…`, `/path/…` and `/header/…` for parameters). `request_id` is what
the operator finds in the logs. `type` is an address of this service, `GET /problems/{code}`, that
answers with the line below.

`x-should-retry: false` comes where the same request can only be refused again; where waiting helps,
`Retry-After` says how long.

## Problems
"""


def main() -> None:
    (HERE / "openapi.json").write_text(openapi_text())
    (HERE / "errors.md").write_text(errors_text())
    (HERE / "operations.md").write_text(operations_text())
    (HERE / "data.md").write_text(data_text())


def openapi_text() -> str:
    """The OpenAPI document of the code, as it is committed."""
    with tempfile.TemporaryDirectory() as name:
        document = create_app(Settings(data_dir=Path(name), _env_file=None)).openapi()
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def operations_text() -> str:
    """The operator's page, with the settings as they are now."""
    before, _, rest = (HERE / "operations.md").read_text().partition(SETTINGS_BEGIN)
    _, _, after = rest.partition(SETTINGS_END)
    return f"{before}{SETTINGS_BEGIN}{settings_table()}{SETTINGS_END}{after}"


def settings_table() -> str:
    """Every setting with its default."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        if default is None or default == frozenset():
            shown = "none"
        lines.append(f"| `PLAUDIT_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def errors_text() -> str:
    """Every code that a client can meet: of problems, of fields, and of failed jobs."""
    lines = [
        INTRODUCTION,
        "| code | status | when | what to do next |",
        "|---|---|---|---|",
        *(_row(problem) for problem in problem_types()),
        "",
        "## Failed jobs",
        "",
        "`failure.code` of a job, with the `failure.category` that says who can do something about",
        "it. What is retryable is tried again by the service before the job fails.",
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
        "`warnings[].code` of a job or a dry run: it goes on all the same.",
        "",
        "| code | what to do next |",
        "|---|---|",
        *(f"| `{code}` | {NOTES[code]} |" for code in NoteCode),
        "",
        "## Fields",
        "",
        "`errors[].code`; message and hint of each say the rest. In any body or parameter (a",
        "validation of Pydantic that has no name here keeps its own):",
        "",
        _listed(sorted(FIELD_CODES)),
        "",
        "In an uploaded dataset, with the line in `loc`:",
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
