"""Rules of the code style that ruff cannot check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FUNCTION_LINES = 50
#: A comment on the line above a long function or in its body must begin with this.
REASON = "# Long because "


def unexplained_long_functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield name and number of lines of each long function that no comment explains."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        length = node.end_lineno - node.lineno + 1
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        # From the line above to the first statement after the docstring.
        body = node.body[min(1, len(node.body) - 1)]
        head = lines[max(first - 2, 0) : body.lineno]
        if length > MAX_FUNCTION_LINES and not any(REASON in line for line in head):
            yield node.name, length


@pytest.mark.parametrize("package", ["app", "worker", "client"])
def test_long_functions_have_a_reason(package: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}:{name}": length
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, length in unexplained_long_functions(path.read_text())
    }
    assert found == {}, f"over {MAX_FUNCTION_LINES} lines without a comment '{REASON}…'"


def test_no_router_imports_another() -> None:
    """Code that two routers share belongs in a module without routes."""
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted((ROOT / "app").rglob("*router.py"))
        for line in path.read_text().splitlines()
        if re.match(r"from app\.\S*router import", line)
    ]
    assert found == []


def function(lines: int, *, above: str = "", inside: str = "    pass") -> str:
    """Return the source of a function with this number of lines."""
    return "\n".join([above, "def f():", inside, *["    pass"] * (lines - 2)])


@pytest.mark.parametrize(
    ("source", "lengths"),
    [
        (function(50), []),
        (function(51), [51]),
        (function(51, above=f"{REASON}it is a table."), []),
        (function(51, inside=f"    {REASON}it is a table."), []),
        (f"class C:\n    def f(self):\n        x = '''{chr(10) * 60}'''", [62]),
    ],
)
def test_length_counts_from_def_to_the_last_line(source: str, lengths: list[int]) -> None:
    assert [length for _, length in unexplained_long_functions(source)] == lengths
