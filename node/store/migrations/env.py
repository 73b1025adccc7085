"""Alembic's entry: runs the migrations on the connection that `database.migrate` hands over."""

from alembic import context

from node.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter most columns in place
)
with context.begin_transaction():
    context.run_migrations()
