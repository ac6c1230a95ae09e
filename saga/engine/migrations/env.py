"""What alembic runs to apply or print the migrations. All it needs comes from `saga.engine.schema`, no file."""

from __future__ import annotations

from typing import Any

from alembic import context

attributes = context.config.attributes
schema: str = attributes["schema"]
options: dict[str, Any] = {
    "version_table": "alembic_version",
    "version_table_schema": schema,
    "transaction_per_migration": False,
}

if context.is_offline_mode():
    # The "named" paramstyle keeps a percent sign in the DDL single.
    context.configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"}, **options)
else:
    context.configure(connection=attributes["connection"], **options)

with context.begin_transaction():
    for statement in attributes["before"]:
        context.execute(statement)
    context.run_migrations()
    for statement in attributes["after"]:
        context.execute(statement)
