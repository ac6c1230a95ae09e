"""How several pendings are waited for at once: for all of them, for any, for the first success. It starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from saga.core.errors import DefinitionError
from saga.core.pending import Pending, StepPending
from saga.core.program import Program


def gather(program: Program, pendings: Sequence[Pending[Any]], *, collect: bool) -> tuple[Any, ...]:
    """Wait for all and return their results in order; what fails is raised at once, or collected.

    Raises:
        StepFailed: one of them failed, and they are not collected.
    """
    for pending in pendings:
        pending._check_wanted()
    program.wait_until(_all_there(program, pendings, collect=collect))
    failed = [pending for pending in pendings if pending._failed]
    if failed and not collect:
        for pending in pendings:
            pending._seen = True
        raise min(failed, key=settled_at)._failure()
    for pending in failed:
        pending._seen = True
    return tuple(pending._failure() if pending._failed else pending.result() for pending in pendings)


def any_of(program: Program, going: set[str], seen: int) -> set[str]:
    """Wait until some of these occurrences are settled, past the settlements seen; return which."""
    settlements = program.host.state.settlements
    program.wait_until(lambda: not going.isdisjoint(settlements[seen:]))
    return going.intersection(settlements[seen:])


def first(program: Program, pendings: Sequence[Pending[Any]]) -> Pending[Any]:
    """Wait for the first success and return it; the others lose.

    Raises:
        StepFailed: all of them failed; the last one to fail is raised.
        DefinitionError: there is none, or one is a step and the pivot is passed.
    """
    if not pendings:
        raise DefinitionError("ctx.first() got nothing to wait for: pass at least one pending")
    if program.host.state.pivoted and any(isinstance(pending, StepPending) for pending in pendings):
        raise DefinitionError(
            "ctx.first(…) over steps after ctx.pivot(): its losers would have to be undone; race before the pivot"
        )
    for pending in pendings:
        pending._check_wanted()

    def won() -> list[Pending[Any]]:
        return [pending for pending in pendings if pending.settled and not pending._failed]

    program.wait_until(lambda: bool(won()) or all(pending.settled for pending in pendings))
    for pending in pendings:
        pending._seen = True
    winners = won()
    if not winners:
        raise max(pendings, key=settled_at)._failure()
    winner = min(winners, key=settled_at)
    for loser in pendings:
        if loser is not winner:
            loser._lose()
    return winner


def settled_at(pending: Pending[Any]) -> int:
    """Return where in the log it was settled."""
    return pending._settled_seq or 0


def _all_there(program: Program, pendings: Sequence[Pending[Any]], *, collect: bool) -> Callable[[], bool]:
    """Return the condition that all are settled, or one has failed; it looks at each settlement once."""
    settlements = program.host.state.settlements
    waiting = {pending._occurrence: pending for pending in pendings if not pending.settled}
    failed = not collect and any(pending._failed for pending in pendings)
    seen = len(settlements)

    def satisfied() -> bool:
        nonlocal seen, failed
        while seen < len(settlements):
            settled = waiting.pop(settlements[seen], None)
            failed = failed or (not collect and settled is not None and settled._failed)
            seen += 1
        return failed or not waiting

    return satisfied
