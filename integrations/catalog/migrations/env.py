"""What Alembic runs: the migrations, on the connection that the catalog opened, inside its transaction."""

from alembic import context

from integrations.catalog.models import Base

# SQLite cannot alter most of a table in place; a batch copies it.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
