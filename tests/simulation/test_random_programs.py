"""Random programs under random outcomes: replay, invariants, the end of every run; and mutants that must be caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga.core import policy
from saga.core.events import EventKind, chain_digest
from saga.core.fold import FOLDS
from saga.core.lifecycle import Status
from saga.core.state import State
from saga.core.tracks import Phase, StepState
from saga.core.waits import Mailbox, Wait
from tests.simulation.programs import World, check, check_taken_back, describe

#: Seeds on which the mutants are tried until one of them tells.
MUTANT_SEEDS = range(1_500)


def play(seed: int) -> World:
    """Play one seed to its end and check it; a failure shows the program and its log."""
    world = World(seed)
    try:
        world.live()
        check(world)
        state = world.run.state
        if not state.pivoted and world.run.status in (Status.COMPLETED, Status.TERMINATED):
            world.take_back()
            check_taken_back(world)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n{describe(world)}") from error
    return world


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(seed=st.integers(min_value=0, max_value=2**40))
def test_every_run_ends_and_every_invariant_holds_whatever_is_drawn(seed: int) -> None:
    play(seed)


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(seed=st.integers(min_value=0, max_value=2**40), data=st.data())
def test_the_hash_chain_tells_any_change_of_the_log(seed: int, data: st.DataObject) -> None:
    log = play(seed).run.log
    index = data.draw(st.integers(min_value=0, max_value=len(log) - 1))

    def head(skip: int | None) -> bytes:
        digest = b""
        for event in log:
            if event.seq - 1 != skip:
                digest = chain_digest(digest, event)
        return digest

    assert head(None) != head(index)


def never_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def may_stand(step: StepState) -> bool:
        return step.undo is not None and not step.undone and step.succeeded

    monkeypatch.setattr(StepState, "may_stand", property(may_stand))


def late_outcomes_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOLDS, EventKind.OUTCOME_LATE, lambda *_: None)


def siblings_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepState, "quiet", property(lambda step: True))


def undo_in_order_of_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def undo(state: State, emit: policy.Emit) -> None:
        standing = [step for step in state.steps.values() if step.may_stand]
        for step in standing[:1]:
            if step.undo is not None and step.undo.phase is Phase.IDLE:
                policy._schedule(step, step.undo, emit)
        if not standing and not state.unfinished:
            emit(EventKind.RUN_COMPENSATED)

    monkeypatch.setattr(policy, "_undo", undo)


def ends_before_its_undos(monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(step: StepState) -> bool:
        return step.quiet and step.settled_seq is not None

    monkeypatch.setattr(StepState, "finished", property(finished))


def rolls_back_in_order_of_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def roll_back(state: State, emit: policy.Emit) -> None:
        standing = [step for step in state.unfinished.values() if step.in_turn and step.may_stand and step.over]
        for step in standing[:1]:
            if step.undo is not None and step.undo.phase is Phase.IDLE:
                policy._schedule(step, step.undo, emit)

    monkeypatch.setattr(policy, "_roll_back", roll_back)


def signals_lost_with_their_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Mailbox.drop

    def drop_all(mailbox: Mailbox, wait: Wait, seq: int) -> Wait | None:
        return drop(mailbox, wait, seq) if wait.letter is None else None

    monkeypatch.setattr(Mailbox, "drop", drop_all)


def signals_pass_over_waits_that_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    drop = Mailbox.drop

    def drop_all(mailbox: Mailbox, wait: Wait, seq: int) -> Wait | None:
        assert wait.signal is not None
        if wait.letter is not None:
            mailbox.unread.setdefault(wait.signal, []).append(wait.letter)
            return None
        return drop(mailbox, wait, seq)

    monkeypatch.setattr(Mailbox, "drop", drop_all)


@pytest.mark.parametrize(
    "mutant",
    [
        never_unknown,
        late_outcomes_dropped,
        siblings_not_awaited,
        undo_in_order_of_start,
        ends_before_its_undos,
        rolls_back_in_order_of_start,
        signals_lost_with_their_wait,
        signals_pass_over_waits_that_have_begun,
    ],
    ids=lambda mutant: str(mutant.__name__),
)
def test_a_mutant_is_caught(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)

    with pytest.raises((AssertionError, KeyError)):
        _play_all(MUTANT_SEEDS)


def _play_all(seeds: range) -> None:
    for seed in seeds:
        play(seed)
