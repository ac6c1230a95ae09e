"""The migrations of the tables, applied by `saga.engine.schema`; alembic finds them by path."""
