"""Insert or update, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.core.database import Base

#: Given the columns of the rejected insert, returns whether the existing row may be updated.
Condition = Callable[[Any], ColumnElement[bool]]


def upsert(
    session: Session,
    table: type[Base],
    rows: Sequence[Mapping[str, Any]],
    *,
    update: Collection[str],
    only_if: Condition | None = None,
) -> None:
    """Insert rows; where the primary key exists, overwrite the columns ``update`` instead.

    ``only_if`` restricts the rows that are overwritten; the others stay as they are.
    """
    if not rows:
        return
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values([dict(row) for row in rows])
    excluded = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[column.name for column in table.__table__.primary_key],
            set_={name: excluded[name] for name in update},
            where=None if only_if is None else only_if(excluded),
        )
    )


def add_to(
    session: Session, table: type[Base], row: Mapping[str, Any], columns: Collection[str]
) -> None:
    """Insert a row; where the primary key exists, add the values of ``columns`` to its own."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(dict(row))
    known = table.__table__.columns
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[column.name for column in table.__table__.primary_key],
            set_={name: known[name] + statement.excluded[name] for name in columns},
        )
    )
