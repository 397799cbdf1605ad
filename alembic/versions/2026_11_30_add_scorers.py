"""add scorers"""

import sqlalchemy as sa

from alembic import op

revision = "3c1f7a90d2e5"
down_revision = "3e9a6c52d1f8"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "scorers",
        sa.Column("id", sa.String(length=160), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("url", sa.String(length=300), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("resident", sa.JSON(), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scorers")),
    )
    op.create_index(op.f("ix_scorers_queue"), "scorers", ["queue"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_scorers_queue"), table_name="scorers")
    op.drop_table("scorers")
