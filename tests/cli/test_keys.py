"""``plaudit keys`` on both databases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from app.api_keys import service
from app.auth.key_ring import KeyRing
from app.auth.scopes import Scope
from app.cli.commands import app
from app.core.database import transaction
from app.core.errors import UnauthorizedError


@pytest.fixture
def _settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_DATABASE_URL", database_url)
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path))


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


@pytest.mark.usefixtures("_settings")
def test_created_key_is_printed_once_and_works(engine: Engine) -> None:
    done = keys("create", "--name", "ci", "--scope", "jobs:read", "--scope", "jobs:write")
    assert done.exit_code == 0, done.stderr
    (token,) = done.stdout.split()
    principal = KeyRing(engine).authenticate(token)
    assert principal.scopes == {"jobs:read", "jobs:write"}
    assert principal.tenant_id == "default"
    listed = keys("list").stdout
    assert principal.key_id in listed
    assert token not in listed
    assert token.split("_")[2] not in keys("list", "--json").stdout


@pytest.mark.usefixtures("_settings")
def test_key_is_an_admin_for_good_unless_told_otherwise(engine: Engine) -> None:
    keys("create")
    keys("create", "--expires-days", "2", "--tenant", "acme")
    (mine,) = json.loads(keys("list", "--json").stdout)
    (other,) = json.loads(keys("list", "--tenant", "acme", "--json").stdout)
    assert (mine["scopes"], mine["expires_at"]) == (["admin"], None)
    assert other["expires_at"] > other["created_at"]


@pytest.mark.usefixtures("_settings")
def test_key_that_outlives_all_dates_is_not_made() -> None:
    """A date that cannot be formatted would break every list of keys."""
    assert keys("create", "--expires-days", "99999999").exit_code == 2
    assert json.loads(keys("list", "--json").stdout) == []


@pytest.mark.usefixtures("_settings")
def test_revoked_key_is_dead_and_gone_from_the_list(engine: Engine) -> None:
    token = keys("create").stdout.strip()
    key_id = KeyRing(engine).authenticate(token).key_id
    assert keys("revoke", key_id, "--tenant", "other").exit_code == 1
    assert keys("revoke", key_id).exit_code == 0
    with pytest.raises(UnauthorizedError):
        KeyRing(engine).authenticate(token)
    assert json.loads(keys("list", "--json").stdout) == []
    assert keys("revoke", key_id).exit_code == 1


@pytest.mark.usefixtures("_settings")
def test_list_shows_more_keys_than_a_page_holds(engine: Engine) -> None:
    with transaction(engine) as session:
        for i in range(101):
            service.create(session, "default", f"key {i}", [Scope.JOBS_READ])
    assert len(json.loads(keys("list", "--json").stdout)) == 101


def test_database_without_tables_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLAUDIT_DATABASE_URL", raising=False)
    monkeypatch.setenv("PLAUDIT_DATA_DIR", str(tmp_path / "new"))
    done = keys("create")
    assert done.exit_code == 1
    assert "plaudit migrate" in done.stderr
    assert done.stdout == ""
