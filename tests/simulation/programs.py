"""Random saga programs, and a world that answers them: the real core, with every outcome and act drawn by a seed.

The world keeps its own book of what took effect; it is not told by the engine. It knows no database.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import product
from typing import Any
from uuid import UUID

from saga import Abort, Context, LockTaken, Pending, Signal, SignalTimeout, Status, StepFailed
from saga.core.definition import AnyStep, SagaDefinition
from saga.core.effects import Report, RequestLock, RunTask, StartChild
from saga.core.events import Direction, EventKind
from saga.core.lifecycle import ENDED
from tests.unit.driven import Driven
from tests.unit.steps import book, charge, hurry, look, mail, ship, stock

STEPS: list[AnyStep] = [stock, charge, ship, mail, look, hurry, book]
#: What else can be waited for, by the numbers above those of the steps.
CHILD, CANCELLED_CHILD, TIMER, SIGNAL = range(len(STEPS), len(STEPS) + 4)
go = Signal("go", int)


def kid(ctx: Context, n: int) -> int:
    """A child; the world answers for it."""
    return n


KID = SagaDefinition(kid, name="kid")

#: A program: a nested tuple whose head says what it does.
Program = tuple[Any, ...]


def random_program(rng: random.Random, depth: int = 3) -> Program:
    """Draw a program of a few steps."""
    parts = [_part(rng, depth) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.4:
        parts.insert(rng.randint(0, len(parts)), ("pivot",))
        parts.append(_part(rng, 0))
    return ("all", *parts)


def _part(rng: random.Random, depth: int) -> Program:
    def one() -> int:
        return rng.randrange(len(STEPS)) if rng.random() < 0.7 else rng.randrange(len(STEPS), len(STEPS) + 4)

    def some() -> tuple[int, ...]:
        return tuple(one() for _ in range(rng.randint(1, 3)))

    often = ["run", "start", "gather", "first", "try", "branch", "back"]
    kind = rng.choice([*often, *often, "run", "abort", "lock", "patience", "rush"] if depth else ["run"])
    match kind:
        case "run" | "start":
            return (kind, one())
        case "lock":
            return (kind, rng.choice("ab"), rng.random() < 0.5)
        case "patience":
            return (kind, rng.choice([5, 50, 50, 50]))
        case "rush":
            return (kind, rng.randrange(len(STEPS)))
        case "back":
            return (kind, _part(rng, depth - 1), _part(rng, depth - 1), rng.random() < 0.3)
        case "gather" | "first":
            return (kind, *some())
        case "try" | "branch":
            return (kind, _part(rng, depth - 1), _part(rng, depth - 1))
        case _:
            return ("abort",) if rng.random() < 0.3 else ("run", rng.randrange(len(STEPS)))


def saga_of(program: Program, timeout: float | None) -> SagaDefinition:
    """Return the program as a saga."""

    def function(ctx: Context, n: int) -> int:
        return _perform(ctx, program)

    return SagaDefinition(function, name="random", timeout_seconds=timeout, signals=[go])


def _perform(ctx: Context, program: Program) -> int:
    head, *rest = program
    pivoted = ctx._program.host.state.pivoted
    match head:
        case "all":
            return sum(_perform(ctx, part) for part in rest)
        case "run":
            return int(_begin(ctx, rest[0]).result() or 0)
        case "start":
            return int(_begin(ctx, rest[0]).settled)
        case "gather":
            return sum(value or 0 for value in ctx.gather(*[_begin(ctx, index) for index in rest]))
        case "first":
            pendings = [_begin(ctx, index) for index in rest]
            if pivoted:
                return sum(value or 0 for value in ctx.gather(*pendings))
            return int(ctx.first(*pendings).result() or 0)
        case "lock":
            try:
                ctx.lock(rest[0], wait=rest[1], timeout=40)
            except LockTaken:
                return 1
            return 2
        case "patience":
            try:
                return ctx.wait_signal(go, timeout=rest[0])
            except SignalTimeout:
                if pivoted or rest[0] > 5:
                    return 0
                raise
        case "rush":
            early, late, heir = ctx.wait(go), ctx.wait(go), ctx.wait(go)
            _begin(ctx, rest[0]).result()
            return ctx.first(early, late).result() + heir.result()
        case "back":
            return _go_back(ctx, rest[0], rest[1], rest[2])
        case "try":
            try:
                return _perform(ctx, rest[0])
            except StepFailed:
                return _perform(ctx, rest[1])
        case "branch":
            return _perform(ctx, rest[1]) if _perform(ctx, rest[0]) % 2 else 0
        case "pivot":
            ctx.pivot()
            return 0
        case _:
            if ctx._program.host.state.pivoted:
                return 0
            raise Abort("the program says so")


def _begin(ctx: Context, index: int) -> Pending[Any]:
    match index:
        case _ if index < len(STEPS):
            step: Any = STEPS[index]
            pending: Pending[Any] = ctx.start(step, 1)
        case _ if index == TIMER:
            pending = ctx.timer(20)
        case _ if index == SIGNAL:
            pending = ctx.wait(go)
        case _:
            pending = ctx.start_child(KID, 1, close="cancel" if index == CANCELLED_CHILD else "wait")
    return pending


def _go_back(ctx: Context, part: Program, instead: Program, always: bool) -> int:
    """Do a part, go back before it if it fails, or always; and then do something else."""
    savepoint = ctx.savepoint()
    try:
        value = _perform(ctx, part)
        if not always:
            return value
    except StepFailed:
        if ctx._program.host.state.pivoted:
            raise
    if not ctx._program.host.state.pivoted:
        ctx.rollback(savepoint)
    return _perform(ctx, instead)


class World:
    """Answers one run at random, then calmly, and keeps the book of effects by the action's token."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.program = random_program(rng)
        timeout = rng.choice([None, None, 90.0])
        self.run = Driven(saga_of(self.program, timeout))
        self.applied: dict[UUID, int] = {}  #: tokens whose effect is there, and what it returned
        self.lost: list[tuple[RunTask, int]] = []  #: attempts that landed and whose worker may still tell
        self.frozen: list[RunTask] = []  #: attempts whose worker may still act, and then tell
        self.sent = 0
        self.losses = rng.choice([1, 2, 8])
        self.evictions = rng.choice([0.0, 0.3, 1.0])

    def live(self, moves_noisy: int = 25, moves_max: int = 1_500) -> None:
        """Let it be noisy for a while, then answer well until the run ends.

        Raises:
            AssertionError: the run does not end (I4), or anything that `Driven` checks at each move.
        """
        for number in range(moves_max):
            if self.run.status in ENDED:
                return
            if self.rng.random() < self.evictions or self.run.execution.broken is not None:
                self.run.reload()
            if number < moves_noisy:
                self._noise()
            else:
                self._calm()
            mailbox = self.run.state.mailbox
            assert not (any(mailbox.unread.values()) and any(mailbox.open.values())), "I22: a wait and its signal part"
        raise AssertionError(f"no end after {moves_max} moves: {self.run.status} {self.run.stall_reason}")

    def take_back(self, moves_max: int = 500) -> None:
        """Undo the run that has ended, as its parent's undo does; now and then the undo is ended and begun anew.

        Raises:
            AssertionError: the undo makes no end, or anything that `Driven` checks at each move.
        """
        ended = self.run
        for task in ended.open.values():
            action = isinstance(task, RunTask) and ended.state.tokens[task.token][1].direction is Direction.ACTION
            if action and self.rng.random() < 0.5:  # it was ended with its run, and lands all the same
                self.applied.setdefault(task.token, 1)
        self.lost, self.frozen = [], []
        log = list(ended.log)
        self.run = Driven(None, undoes=log)
        for number in range(moves_max):
            if self.run.status is Status.COMPENSATED:
                return
            if self.rng.random() < self.evictions:
                self.run.reload()
            if number < 20 and self.rng.random() < 0.05:
                log += self.run.terminate().log
                self.run = Driven(None, undoes=log)
            elif self.run.open and number < 20 and self.rng.random() < 0.5:
                self._answer(self.rng.choice(sorted(self.run.open)))
            else:
                self._calm()
        raise AssertionError(f"no end of the undo after {moves_max} moves: {self.run.status} {self.run.stall_reason}")

    # -- moves -----------------------------------------------------------------------------------------------------

    def _noise(self) -> None:
        rng, run = self.rng, self.run
        moves: list[tuple[float, Callable[[], None]]] = []
        if run.open:
            moves.append((10, lambda: self._answer(rng.choice(sorted(run.open)))))
        if run.timers:
            moves.append((4, lambda: self._fire(rng.choice(sorted(run.timers)))))
        if self.frozen:
            moves.append((2, self._thaw))
        if self.lost:
            moves.append((2, self._tell))
        moves.append((0.15, lambda: _void(run.cancel())))
        moves.append((1, self._signal))
        if run.status is Status.STALLED:
            moves.append((3, lambda: _void(run.retry())))
            moves.append((1, self._resolve))
        if rng.random() < 0.01:
            moves.append((1, lambda: _void(run.terminate())))
        weights = [weight for weight, _ in moves]
        rng.choices([move for _, move in moves], weights)[0]()

    def _calm(self) -> None:
        run = self.run
        if self.frozen and self.rng.random() < 0.3:
            self._thaw()
        elif run.open:
            name = sorted(run.open)[0]
            self._do(name, EventKind.STEP_SUCCEEDED)
        elif run.status is Status.STALLED:
            stuck = [run.state.tokens[token][0] for token in run.state.stuck]
            # What passed its pivot is not undone however often that is asked.
            if any(step.irrevocable for step in stuck):
                self._resolve()
            else:
                run.retry()
        elif run.timers:
            run.fire()
        else:
            assert any(run.state.mailbox.open.values()), f"the run waits for nothing: {run.status}, {self.program}"
            self._signal()

    def _signal(self) -> None:
        self.sent += 1
        self.run.signal("go", self.rng.randint(0, 3), id=str(self.rng.randint(1, self.sent)))

    def _fire(self, name: str) -> None:
        self.run.fire(name)

    def _answer(self, name: str) -> None:
        task = self.run.open[name]
        action = name.count(".") == 0
        if not isinstance(task, RunTask):
            self._answer_for(name, task, action)
            return
        kinds = [
            (8, EventKind.STEP_SUCCEEDED),
            (2, EventKind.STEP_UNKNOWN),
            (self.losses, EventKind.STEP_LOST),
            (1, EventKind.STEP_POSTPONED),
            (0.5, EventKind.STEP_NOT_RUN),
        ]
        if not name.endswith(".probe"):
            kinds.append((2 if action else 0.4, EventKind.STEP_FAILED))
        if action:
            kinds.append((0.6, EventKind.STEP_REFUSED))
            if name in self.run.fenced:
                kinds.append((3, EventKind.STEP_NEVER_STARTED))
        weights = [weight for weight, _ in kinds]
        self._do(name, self.rng.choices([kind for _, kind in kinds], weights)[0])

    def _answer_for(self, name: str, asked: StartChild | RequestLock, action: bool) -> None:
        kinds = [(8, EventKind.STEP_SUCCEEDED), (2 if action else 0.4, EventKind.STEP_FAILED)]
        if isinstance(asked, StartChild) and action:
            kinds.append((1, EventKind.STEP_UNKNOWN))
        elif isinstance(asked, RequestLock) and name in self.run.fenced:
            kinds.append((3, EventKind.STEP_NEVER_STARTED))
        weights = [weight for weight, _ in kinds]
        self._do(name, self.rng.choices([kind for _, kind in kinds], weights)[0])

    def _do_for(self, name: str, asked: StartChild | RequestLock, kind: EventKind) -> None:
        """Answer for a child or a lock; of a child that was terminated something may stand."""
        step, track = self.run.state.tokens[asked.token]
        action = step.action.token
        pivoted = isinstance(asked, StartChild) and kind is not EventKind.STEP_FAILED and self.rng.random() < 0.1
        if track.direction is Direction.COMPENSATION:
            pivoted = False
            if kind is EventKind.STEP_SUCCEEDED:
                self.applied.pop(action, None)
        elif kind is EventKind.STEP_SUCCEEDED or (kind is EventKind.STEP_UNKNOWN and self.rng.random() < 0.7):
            self.applied[action] = self.rng.randint(1, 9)
        good = kind is EventKind.STEP_SUCCEEDED
        value: Any = self.applied.get(action) if good else {"type": "E", "message": kind.value}
        if kind is EventKind.STEP_NEVER_STARTED:
            self.run.never_start(name)
        else:
            self.run.answer(name, kind, value, pivoted=pivoted)

    def _do(self, name: str, kind: EventKind) -> None:
        """Answer an attempt as a worker would, with its effect in the book."""
        run = self.run
        task = run.open[name]
        if not isinstance(task, RunTask):
            self._do_for(name, task, kind)
            return
        step, track = run.state.tokens[task.token]
        action = step.action.token
        value: Any = None
        match track.direction, kind:
            case Direction.ACTION, EventKind.STEP_SUCCEEDED | EventKind.STEP_REFUSED:
                value = self._apply(task, name)
            case Direction.ACTION, EventKind.STEP_UNKNOWN:
                if self.rng.random() < 0.5:
                    self._apply(task, name)
            case Direction.ACTION, EventKind.STEP_LOST if not step.transactional:
                if self.rng.random() < 0.4:
                    self.frozen.append(task)
                elif self.rng.random() < 0.5:
                    self.lost.append((task, self._apply(task, name)))
            case Direction.PROBE, EventKind.STEP_SUCCEEDED:
                value = [self._result(name, self.applied[action])] if action in self.applied else None
            case Direction.COMPENSATION, EventKind.STEP_SUCCEEDED | EventKind.STEP_LOST | EventKind.STEP_UNKNOWN:
                if kind is EventKind.STEP_SUCCEEDED or self.rng.random() < 0.5:
                    self.applied.pop(action, None)
        if kind is EventKind.STEP_POSTPONED:
            value = 3
        elif kind in (EventKind.STEP_FAILED, EventKind.STEP_UNKNOWN, EventKind.STEP_NOT_RUN, EventKind.STEP_REFUSED):
            value = {"type": "E", "message": kind.value}
        elif track.direction is Direction.ACTION:
            value = self._result(name, value)
        run.end(name, kind, value)

    def _result(self, name: str, value: Any) -> Any:
        return None if name.startswith("mail") else value

    def _apply(self, task: RunTask, name: str) -> int:
        """Take effect once per token, as a service that honours keys does."""
        return self.applied.setdefault(task.token, self.rng.randint(1, 9))

    def _tell(self) -> None:
        task, value = self.lost.pop(self.rng.randrange(len(self.lost)))
        name = self.run.name_of(task.token)
        self.run.tell_late(task, self._result(name, value))

    def _thaw(self) -> None:
        """Let a frozen worker act on a service that forgot the undo, and tell that."""
        task = self.frozen.pop(self.rng.randrange(len(self.frozen)))
        name = self.run.name_of(task.token)
        value = self._result(name, self._apply(task, name))
        kinds = (EventKind.STEP_SUCCEEDED, EventKind.STEP_SUCCEEDED, EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED)
        self.run.tell_late(task, value, kind=self.rng.choice(kinds))

    def _resolve(self) -> None:
        """Let an operator see to one stuck step by hand, and say so."""
        state = self.run.state
        if not state.stuck:
            return
        step, track = state.tokens[next(iter(state.stuck))]
        if track.direction is Direction.COMPENSATION:
            self.applied.pop(step.action.token, None)
            self.run.resolve(step.occurrence)
        else:
            task = RunTask(step.action.token, 0, "", "", None)
            name = self.run.name_of(step.action.token)
            self.run.resolve(step.occurrence, self._result(name, self._apply(task, name)))


def check_taken_back(world: World) -> None:
    """Hold a run that was taken back against the world's book (I8, I25).

    Raises:
        AssertionError: an invariant does not hold.
    """
    run, state = world.run, world.run.state
    assert run.open == {}, "I25: attempts are left behind"
    assert run.timers == {}
    for step in state.steps.values():
        if step.undo is not None:
            assert step.action.token not in world.applied, f"I8: {step.occurrence} still stands"


def check(world: World) -> None:
    """Hold the ended run against the world's book (I5, I7 to I12, I20).

    Raises:
        AssertionError: an invariant does not hold.
    """
    run, state = world.run, world.run.state
    log = run.log
    assert run.timers == {}
    if run.status is Status.TERMINATED:
        return
    for step in state.steps.values():
        here = step.action.token in world.applied
        wanted = run.status is Status.COMPLETED and step.succeeded and not step.discarded
        if wanted:
            assert here, f"I7: {step.occurrence} counts as done and is not"
        elif step.undo is not None:
            assert not here, f"I7, I8: {step.occurrence} took effect, is not wanted and was not undone"
    assert run.open == {}, "I25: attempts are left behind"
    turned = next((event.seq for event in log if event.kind is EventKind.RUN_COMPENSATING), None)
    pivot = next((event.seq for event in log if event.kind is EventKind.PIVOT_PASSED), None)
    assert turned is None or pivot is None, "I11: a run went back behind its pivot"
    undos = [event for event in log if event.kind is EventKind.COMPENSATION_SCHEDULED]
    for event in undos:
        assert event.token is not None
        step, _ = state.tokens[event.token]
        unwanted = step.discarded or step.gave_up
        assert unwanted or (turned is not None and event.seq > turned), f"I12: {step.occurrence} undone without a cause"
        for later in log:
            if later.token == step.action.token and later.seq > event.seq:
                assert later.kind not in (EventKind.ACTION_SCHEDULED, EventKind.ATTEMPT_SCHEDULED), "I10"
    _check_signals(world)
    _check_order(world, turned)
    for step in state.steps.values():
        for track in step.tracks:
            attempts = track.policy.retry.attempts
            assert attempts is None or track.used <= attempts, f"I20: {step.occurrence} {track.direction}"


def _check_signals(world: World) -> None:
    """I22: every signal is in the log once, and was read once or reported."""
    state = world.run.state
    recorded = {event.key for event in world.run.log if event.kind is EventKind.SIGNAL_RECEIVED}
    waits = [wait.letter for wait in state.waits.values() if wait.letter is not None and not wait.dropped]
    read = [letter.id for letter in waits]
    left = [effect for effect in world.run.told if isinstance(effect, Report)]
    unread = [json.loads(report.payload)["id"] for report in left]
    assert sorted(read + unread) == sorted(id for id in recorded if id), f"I22: read {read}, reported {unread}"


def _check_order(world: World, turned: int | None) -> None:
    """I9: nothing is undone while something that began after its end still stands."""
    state, log = world.run.state, world.run.log
    first_undo: dict[str, int] = {}
    last_undone: dict[str, int] = {}
    told = [event.token for event in log if event.kind is EventKind.OUTCOME_LATE and event.token is not None]
    late = {state.tokens[token][0].occurrence for token in told}
    for event in log:
        if event.kind is EventKind.COMPENSATION_SCHEDULED and event.key is not None:
            first_undo.setdefault(event.key, event.seq)
        known = state.tokens.get(event.token) if event.token else None
        undone = known is not None and known[1].direction is Direction.COMPENSATION
        if undone and known is not None and event.kind is EventKind.STEP_SUCCEEDED:
            last_undone[known[0].occurrence] = event.seq
        if event.kind is EventKind.RESOLVED and event.key is not None and state.steps[event.key].undone:
            last_undone.setdefault(event.key, event.seq)
    for asked, rolled in _together(world, turned):
        for key, other in product(rolled, rolled):
            step = state.steps[key]
            after = step.ended_seq is not None and state.steps[other].scheduled_seq > step.ended_seq
            if first_undo.get(key, 0) > asked and after and other in last_undone and other not in late:
                assert last_undone[other] < first_undo[key], f"I9: {key} was undone before {other}"


def _together(world: World, turned: int | None) -> list[tuple[int, list[str]]]:
    """Return what is undone in the reverse order of start: since when, and which steps."""
    log, marks = world.run.log, world.run.state.savepoints
    together = [] if turned is None else [(turned, list(world.run.state.steps))]
    alone = {event.key for event in log if event.kind in (EventKind.STEP_DISCARDED, EventKind.STEP_GAVE_UP)}
    for asked in log:
        if asked.kind is EventKind.ROLLBACK_ASKED and asked.key is not None:
            since = [s for s in world.run.state.steps.values() if marks[asked.key] < s.scheduled_seq < asked.seq]
            together.append((asked.seq, [step.occurrence for step in since if step.occurrence not in alone]))
    return together


def _void(_: object) -> None:
    return None


def describe(world: World) -> str:
    """Return the program and the log, for the message of a failing seed."""
    lines = [str(world.program)]
    for event in world.run.log:
        payload = "" if event.kind is EventKind.ACTION_SCHEDULED else json.dumps(event.payload)
        name = world.run.name_of(event.token) if event.token else event.key or ""
        lines.append(f"{event.seq:4} {event.kind:22} {name:24} {event.attempt or '':3} {payload[:100]}")
    return "\n".join(lines)
