"""The secret that the API and the scorers share."""

from __future__ import annotations

import secrets

from app.core.private_files import read_or_create
from app.core.settings import Settings

TOKEN_FILE = "scorer-token"  # noqa: S105 - the name of a file


def read_token(settings: Settings) -> str | None:
    """Return the configured secret. In embedded mode, create one in data_dir if needed.

    None means that no secret is set in production; scorers cannot be used then.
    """
    if settings.scorer_token is not None:
        return settings.scorer_token.get_secret_value()
    if not settings.is_embedded:
        return None
    settings.data_dir.mkdir(0o700, parents=True, exist_ok=True)
    return read_or_create(settings.data_dir / TOKEN_FILE, secrets.token_hex(32))
