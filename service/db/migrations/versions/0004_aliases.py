"""Aliases with their history, and the answers of an evaluation"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "alias_moves",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("sequence", INTEGER, autoincrement=False, nullable=False),
        sa.Column("version", INTEGER, nullable=False),
        sa.Column("previous", INTEGER, nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("time", sa.Float(precision=53), nullable=False),
        sa.CheckConstraint("action IN ('set', 'rollback')", name=op.f("ck_alias_moves_action")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_alias_moves_model_id")),
        sa.PrimaryKeyConstraint("model_id", "alias", "sequence", name=op.f("pk_alias_moves")),
    )
    op.add_column("model_versions", sa.Column("answers", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("model_versions", "answers")
    op.drop_table("alias_moves")
