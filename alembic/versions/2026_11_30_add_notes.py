"""add notes of jobs"""

import sqlalchemy as sa

from alembic import op

revision = "9d4b6e1f07a3"
down_revision = "b41c7e05d9f2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("notes", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "notes")
