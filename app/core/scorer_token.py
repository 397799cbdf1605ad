"""The secret that the API and the scorers share."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

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
    path = settings.data_dir / TOKEN_FILE
    if not path.exists():
        # Other threads may come here at the same time.
        draft = path.with_name(f"{TOKEN_FILE}.{secrets.token_hex(8)}")
        draft.touch(0o600)
        draft.write_text(secrets.token_hex(32))
        with suppress(FileExistsError):  # another was first
            os.link(draft, path)  # atomic
        draft.unlink()
    return path.read_text()
