"""add worker checks"""

import sqlalchemy as sa

from alembic import op

revision = "a8d3b61f4c07"
down_revision = "c2f4a9d1e6b8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("doctor", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "doctor")
