"""How the models of a run are made again."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Runs so far had the one set of models there was, which an empty setup names."""
    op.add_column("runs", sa.Column("setup", sa.JSON, nullable=False, server_default=sa.text("'{}'")))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("runs", "setup")
