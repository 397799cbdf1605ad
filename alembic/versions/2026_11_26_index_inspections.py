"""index inspections"""

import sqlalchemy as sa

from alembic import op

revision = "b7d41f0e92ac"
down_revision = "5d0e8a4c7b13"
branch_labels = None
depends_on = None

WHERE = sa.text("kind = 'preflight'")


def upgrade() -> None:
    op.create_index(
        "ix_jobs_inspections",
        "jobs",
        ["id"],
        unique=False,
        sqlite_where=WHERE,
        postgresql_where=WHERE,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_inspections", table_name="jobs")
