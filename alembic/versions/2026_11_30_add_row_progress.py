"""add row progress"""

import sqlalchemy as sa

from alembic import op

revision = "c2f4a9d1e6b8"
down_revision = "e7b05c2f8d31"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rows", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "rows")
