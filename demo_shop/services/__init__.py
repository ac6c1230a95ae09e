"""The outside world: HTTP services with ledgers of their own. They must not know the engine or its database."""
