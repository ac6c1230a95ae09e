"""The same orders under the same kills, fulfilled four ways: one server, checkpoints, event sourcing, and a saga."""
