"""Run migrations with an engine of the service. Its URL comes from the settings."""

from __future__ import annotations

import app.models
from alembic import context
from app.core.database import make_engine
from app.core.settings import Settings

metadata = app.models.Base.metadata


def run() -> None:
    engine = context.config.attributes.get("engine") or make_engine(Settings().database)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            # SQLite can change most properties of a table only by copying it.
            render_as_batch=connection.dialect.name == "sqlite",
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
