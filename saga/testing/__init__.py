"""What users' tests need: `play` a saga in memory, and `attempt` to call a step's function by itself."""

from saga.testing.play import Played, attempt, play

__all__ = ["Played", "attempt", "play"]
