"""Searches, and the trials that are their children

Columns are added in place: SQLite cannot make a table anew while rows of others refer to it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("search", sa.JSON(), nullable=True))
    op.execute("ALTER TABLE jobs ADD COLUMN parent VARCHAR CONSTRAINT fk_jobs_parent REFERENCES jobs (id)")
    op.add_column("jobs", sa.Column("trial", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True))
    op.add_column("jobs", sa.Column("parameters", sa.JSON(), nullable=True))
    op.create_index(op.f("ix_jobs_parent_trial"), "jobs", ["parent", "trial"], unique=True)


def downgrade() -> None:
    op.drop_index(op.f("ix_jobs_parent_trial"), "jobs")
    for name in ("parameters", "trial", "parent", "search"):
        op.drop_column("jobs", name)
