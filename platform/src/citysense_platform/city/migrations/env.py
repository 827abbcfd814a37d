"""Entry point that Alembic calls: runs the migrations on the connection it is handed. Opens nothing."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # SQLite can hardly alter a table: build anew, copy, rename.
    render_as_batch=True,
    # SQLite's DDL is transactional once the driver does not interfere; a migration cut short leaves nothing.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
