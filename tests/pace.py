"""The engine's waits cut short, so that the test of a recovery takes seconds; the rules stay as they are.

It knows the names of constants and nothing else.
"""

from __future__ import annotations

import saga.core.attempts
import saga.core.policy
import saga.engine.coordinator
import saga.engine.heart
import saga.engine.messages
import saga.engine.renewing
import saga.engine.store.connect
import saga.engine.store.reaping
import saga.engine.upkeep
import saga.engine.worker

#: Seconds of a coordinator's lease in these tests.
LEASE_SECONDS = 1.5
#: Seconds above an attempt's timeout until its hard limit, and above that until its claim counts as lost.
GRACE_SECONDS = 0.5
#: The longest lease of a claim; that of an attempt with a timeout of a second is as long.
CLAIM_SECONDS = 2.0
#: Attempts of a step that may be lost with their workers.
LOST_MAX = 3


def quicken(*, settling_seconds: float = 1.0, answer_seconds: float = saga.engine.store.connect.ANSWER_SECONDS) -> None:
    """Shorten the graces and periods in this process."""
    saga.engine.store.connect.ANSWER_SECONDS = answer_seconds
    for module in (saga.core.attempts, saga.engine.messages, saga.engine.renewing, saga.engine.worker):
        module.GRACE_SECONDS = GRACE_SECONDS  # type: ignore[attr-defined]
    saga.engine.renewing.LEASE_GRACE_SECONDS = GRACE_SECONDS
    saga.engine.renewing.LEASE_SECONDS_MAX = CLAIM_SECONDS
    saga.engine.store.reaping.SETTLING_SECONDS = settling_seconds  # type: ignore[assignment]
    saga.engine.heart.BEAT_SECONDS_MIN = 0.0  # what was told last before a kill is known to the test
    saga.core.policy.LOST_MAX = LOST_MAX
    saga.engine.coordinator.OWN_SECONDS = 0.3  # or a sleeping coordinator would beat too seldom for such a lease
    saga.engine.upkeep.PASS_SECONDS = 0.25
    saga.engine.upkeep.COUNT_SECONDS = 0.5
