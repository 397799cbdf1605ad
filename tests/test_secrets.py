"""Secrets of a service in production shape: looked for wherever a run writes anything."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_refused_settings_do_not_show_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_REDIS_URL", "redis://:p4ssw0rd@localhost/0")
    monkeypatch.setenv("PLAUDIT_LEASE_SECONDS", "1")
    with pytest.raises(ValidationError, match="must rise") as raised:
        Settings()
    assert "redis:" not in str(raised.value)
