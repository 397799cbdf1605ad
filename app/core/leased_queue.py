"""Tables that are used as queues: workers pick rows, lock and update them in one statement.

On PostgreSQL a pick locks the chosen rows and skips rows that other transactions have locked, so
two claims never get the same row and do not wait for each other. SQLite has one writer at a time
and ignores the lock clause.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from app.core.database import AnySelect, Base

Row = TypeVar("Row", bound=Base)


def lock_picked(query: AnySelect) -> AnySelect:
    """Lock the rows that a query picks; leave out those that are locked already."""
    return query.with_for_update(skip_locked=True)


def update_returning(
    session: Session, table: type[Row], conditions: Iterable[ColumnElement[bool]], **values: Any
) -> list[Row]:
    """Update the rows that meet all conditions; return them as they are now."""
    statement = update(table).where(*conditions).values(**values).returning(table)
    return list(session.scalars(statement.execution_options(populate_existing=True)))
