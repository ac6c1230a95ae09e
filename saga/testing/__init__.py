"""What users' tests need: `play` a saga in memory, kill it everywhere, and replay the logs of real runs."""

from saga.testing.cast import attempt
from saga.testing.crashing import every_crash_point
from saga.testing.golden import record, replay
from saga.testing.play import Played, play
from saga.testing.script import send
from saga.testing.starts import started

__all__ = ["Played", "attempt", "every_crash_point", "play", "record", "replay", "send", "started"]
