"""add partial indexes"""

import sqlalchemy as sa

from alembic import op

revision = "5d0e8a4c7b13"
down_revision = "960f62142b66"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_waiting": ("jobs", ["tenant_id", "kind"], "status IN ('queued', 'paused')"),
    "ix_jobs_pace": ("jobs", ["base_model", "id"], "status = 'succeeded'"),
    "ix_job_events_lost": ("job_events", ["at"], "type = 'worker_lost'"),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDEXES.items():
        op.create_index(
            name,
            table,
            columns,
            unique=False,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
