"""Targets, predictions, reviews and cursors."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.String(64)
MOMENT = sa.DateTime(timezone=True)

# Reviews are the evidence that everything later is judged by: the database itself refuses to change them.
_SQLITE = """
CREATE TRIGGER reviews_{event} BEFORE {event} ON reviews
BEGIN SELECT RAISE(ABORT, 'reviews are never changed'); END
"""
_POSTGRESQL = (
    """
CREATE FUNCTION reviews_are_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'reviews are never changed'; END $$
""",
    """
CREATE TRIGGER reviews_are_kept BEFORE UPDATE OR DELETE ON reviews
FOR EACH ROW EXECUTE FUNCTION reviews_are_kept()
""",
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "targets",
        sa.Column("product", sa.String, nullable=False),
        sa.Column("service", sa.String, nullable=False),
        sa.Column("server", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("product", "service", "server", name="pk_targets"),
    )
    op.create_table(
        "cursors",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("value", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_cursors"),
    )
    _predictions()
    _reviews()
    _keep_reviews()


def _predictions() -> None:
    op.create_table(
        "predictions",
        sa.Column("target", sa.String, nullable=False),
        sa.Column("image_key", KEY, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("run", KEY, nullable=False),
        sa.Column("bundle", KEY, nullable=False),
        sa.Column("task", sa.Integer, nullable=False),
        sa.Column("aided", sa.Boolean, nullable=False),
        sa.Column("priority", sa.Double, nullable=False),
        sa.Column("regions", sa.JSON, nullable=False),
        sa.Column("pushed", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("target", "image_key", "version", name="pk_predictions"),
        sa.ForeignKeyConstraint(["image_key"], ["images.key"], name="fk_predictions_image_key"),
    )
    op.create_index("ix_predictions_image_key", "predictions", ["image_key"])


def _reviews() -> None:
    op.create_table(
        "reviews",
        sa.Column("source", sa.String, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("image_key", KEY, nullable=False),
        sa.Column("annotator", sa.String, nullable=False),
        sa.Column("verdict", sa.String),
        sa.Column("words", sa.String, nullable=False),
        sa.Column("lead_seconds", sa.Double),
        sa.Column("run", KEY),
        sa.Column("bundle", KEY),
        sa.Column("aided", sa.Boolean, nullable=False),
        sa.Column("regions", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("source", "id", "updated", "state", name="pk_reviews"),
        sa.ForeignKeyConstraint(["image_key"], ["images.key"], name="fk_reviews_image_key"),
    )
    op.create_index("ix_reviews_product", "reviews", ["product"])
    op.create_index("ix_reviews_image_key", "reviews", ["image_key"])


def _keep_reviews() -> None:
    triggers = [_SQLITE.format(event=event) for event in ("UPDATE", "DELETE")]
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else triggers:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables and their triggers."""
    for table in ("reviews", "predictions", "cursors", "targets"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION reviews_are_kept()")
