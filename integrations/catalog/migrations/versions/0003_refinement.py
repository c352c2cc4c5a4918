"""Promotions, refinements, the hold-out and the looks at it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.String(64)
MOMENT = sa.DateTime(timezone=True)
TABLES = ("promotions", "refinements", "holdout", "looks")

# Who decided what and why, and how often anybody looked: the database itself refuses to change it.
_SQLITE = """
CREATE TRIGGER {table}_{event} BEFORE {event} ON {table}
BEGIN SELECT RAISE(ABORT, '{table}: rows are never changed'); END
"""
_POSTGRESQL = """
CREATE TRIGGER {table}_are_kept BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION rows_are_kept()
"""
_POSTGRESQL_FUNCTION = """
CREATE FUNCTION rows_are_kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ': rows are never changed'; END $$
"""


def upgrade() -> None:
    """Make the tables."""
    _promotions()
    _refinements()
    op.create_table(
        "holdout",
        sa.Column("product", sa.String, nullable=False),
        sa.Column("lot", sa.String, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("product", "lot", name="pk_holdout"),
    )
    _looks()
    _keep_rows()


def _promotions() -> None:
    op.create_table(
        "promotions",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("bundle", KEY, nullable=False),
        sa.Column("previous", KEY),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_promotions"),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.id"], name="fk_promotions_bundle"),
        sa.ForeignKeyConstraint(["previous"], ["bundles.id"], name="fk_promotions_previous"),
    )
    op.create_index("ix_promotions_product", "promotions", ["product"])


def _refinements() -> None:
    op.create_table(
        "refinements",
        sa.Column("bundle", KEY, nullable=False),
        sa.Column("evidence", KEY, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("champion", KEY, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("bundle", "evidence", name="pk_refinements"),
        sa.ForeignKeyConstraint(["bundle"], ["bundles.id"], name="fk_refinements_bundle"),
    )
    op.create_index("ix_refinements_product", "refinements", ["product"])


def _looks() -> None:
    op.create_table(
        "looks",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("evidence", KEY, nullable=False),
        sa.Column("champion", KEY, nullable=False),
        sa.Column("bundle", KEY, nullable=False),
        sa.Column("gain", sa.Double),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_looks"),
    )
    op.create_index("ix_looks_product", "looks", ["product"])


def _keep_rows() -> None:
    if op.get_bind().dialect.name == "postgresql":
        statements = [_POSTGRESQL_FUNCTION, *(_POSTGRESQL.format(table=table) for table in TABLES)]
    else:
        statements = [_SQLITE.format(table=table, event=event) for table in TABLES for event in ("UPDATE", "DELETE")]
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables and their triggers."""
    for table in TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION rows_are_kept()")
