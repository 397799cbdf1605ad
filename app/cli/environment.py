"""Reports environment variables with Plaudit's prefix that Plaudit does not read."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from app.cli.output import notes, plain
from app.core.settings import Settings

_PREFIX = "PLAUDIT_"
#: Read by the client commands.
_CLIENT = {"URL", "API_KEY"}
#: Read by docker-compose.yml and the tests.
_OTHERS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "PUBLISHED_PORT", "HTTPS_PORT", "TLS_DIR",
           "TORCH_INDEX", "FUZZ_CASES"}  # fmt: skip
_TESTS = "TEST_"


def report_ignored(names: Iterable[str]) -> None:
    """Report variables that have Plaudit's prefix but are not settings: they may be misspelled."""
    ours = _CLIENT | {field.upper() for field in Settings.model_fields}
    for name in sorted(names):
        if not name.upper().startswith(_PREFIX):  # names of settings are case-insensitive
            continue
        rest = name.upper().removeprefix(_PREFIX)
        if rest in ours | _OTHERS or rest.startswith(_TESTS):
            continue
        close = get_close_matches(rest, ours, n=1)
        meant = f" Did you mean {_PREFIX}{close[0]}?" if close else ""
        notes.print(plain(f"{name} is not a setting and is ignored.{meant}"))
