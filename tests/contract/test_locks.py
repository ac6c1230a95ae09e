"""`turn_locks_v1`: one holder a name, a line in the order of asking, an answer for each token; whoever commits first.

All of it as the application's role, which owns nothing.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from saga.engine.records import Batch, LockRequest, NewRun
from saga.engine.store.connect import Connection
from saga.engine.store.failures import Superseded
from saga.engine.store.sleeping import Doorbell, Rings
from saga.engine.store.turning import Committed

from .world import SCHEMA, World, in_thread, inbox, new_run, wait_until_blocked

#: Rounds of the race of several coordinators for one name.
ROUNDS = 60
#: A name whose hash is the number of a shard, and so of a bell.
LIKE_A_BELL = "order:10710895"


@dataclass
class Coordinator:
    """One coordinator with a connection of its own."""

    world: World
    connection: Connection = field(init=False)
    me: UUID = field(init=False)

    def __post_init__(self) -> None:
        self.connection = self.world.connect()
        self.me = self.world.coordinator(self.connection)

    def commit(self, batch: Batch) -> Committed:
        return self.world.turning.commit(self.connection, self.me, batch)

    def ask(self, *requests: LockRequest) -> Committed:
        return self.commit(Batch(lock_requests=list(requests)))

    def release(self, *runs: UUID) -> Committed:
        return self.commit(Batch(locks_released=list(runs)))

    def withdraw(self, *tokens: UUID) -> Committed:
        return self.commit(Batch(locks_withdrawn=list(tokens)))


@pytest.fixture
def coordinator(world: World) -> Coordinator:
    return Coordinator(world)


@pytest.fixture
def other(world: World) -> Coordinator:
    return Coordinator(world)


def request(name: str = "order:1", *, run: UUID | None = None, wait: bool = True, shard: int = 7) -> LockRequest:
    run = run or uuid4()
    return LockRequest(name, run, shard, uuid4(), 1, wait, f"checkout/{run}")


def holders(connection: Connection, name: str = "order:1") -> list[UUID]:
    """Return who holds a name: never more than one."""
    rows = connection.execute("SELECT run FROM saga.lock WHERE name = %s AND held", (name,)).fetchall()
    return [row[0] for row in rows]


def line(connection: Connection, name: str = "order:1") -> list[UUID]:
    """Return who holds a name and who waits for it, in order."""
    rows = connection.execute("SELECT run FROM saga.lock WHERE name = %s ORDER BY id", (name,)).fetchall()
    return [row[0] for row in rows]


def answers(connection: Connection) -> dict[UUID, str]:
    """Return what was answered to each token; every token at most once."""
    told = [(row[2], row[0]) for row in inbox(connection)]
    assert len(dict(told)) == len(told), "a token is answered twice"
    return dict(told)


# -- the line ----------------------------------------------------------------------------------------------------------


def test_a_free_lock_is_granted_by_the_commit_that_asks_for_it(world: World, coordinator: Coordinator) -> None:
    asked = request()

    coordinator.ask(asked)

    assert holders(coordinator.connection) == [asked.run]
    assert inbox(coordinator.connection) == [("StepSucceeded", asked.run, asked.token, 1, None, '{"value":null}')]


def test_a_lock_goes_on_in_the_order_of_asking(world: World, coordinator: Coordinator, other: Coordinator) -> None:
    first, second, third = request(), request(), request()
    coordinator.ask(first)
    other.ask(second)
    coordinator.ask(third)
    assert answers(coordinator.connection) == {first.token: "StepSucceeded"}

    coordinator.release(first.run)
    assert holders(coordinator.connection) == [second.run]
    other.release(second.run)
    assert holders(coordinator.connection) == [third.run]
    coordinator.release(third.run)

    assert line(coordinator.connection) == []
    assert answers(coordinator.connection) == dict.fromkeys((first.token, second.token, third.token), "StepSucceeded")


def test_requests_of_one_batch_stand_in_line_in_their_order(coordinator: Coordinator) -> None:
    asked = [request() for _ in range(5)]

    coordinator.ask(*asked)

    assert line(coordinator.connection) == [one.run for one in asked]
    assert holders(coordinator.connection) == [asked[0].run]


def test_names_do_not_hold_each_other_up(coordinator: Coordinator) -> None:
    asked = [request(name) for name in ("a", "A", "a ", "ä", "lock:a", "'; DROP")]

    coordinator.ask(*asked)

    assert set(answers(coordinator.connection).values()) == {"StepSucceeded"}
    assert len(answers(coordinator.connection)) == len(asked)


def test_one_who_has_the_lock_and_asks_again_keeps_it_and_is_answered_again(coordinator: Coordinator) -> None:
    run = uuid4()
    first, again = request(run=run), request(run=run, wait=False)
    coordinator.ask(first)

    coordinator.ask(again)

    assert line(coordinator.connection) == [run]
    assert answers(coordinator.connection) == {first.token: "StepSucceeded", again.token: "StepSucceeded"}


def test_one_who_will_not_wait_is_told_who_has_it_and_leaves_no_place(coordinator: Coordinator) -> None:
    holder, hasty = request(), request(wait=False)
    coordinator.ask(holder)

    coordinator.ask(hasty)

    assert line(coordinator.connection) == [holder.run]
    told = inbox(coordinator.connection)[-1]
    assert told[:4] == ("StepFailed", hasty.run, hasty.token, 1)
    assert told[5] == f'{{"value":{{"type" : "", "message" : "it is held by {holder.holder}"}}}}'


def test_one_who_will_not_wait_gets_what_comes_free_in_the_same_batch(coordinator: Coordinator) -> None:
    holder, hasty = request(), request(wait=False)
    coordinator.ask(holder)

    coordinator.commit(Batch(lock_requests=[hasty], locks_released=[holder.run]))

    assert holders(coordinator.connection) == [hasty.run]


def test_one_who_withdraws_from_the_line_is_told_so_and_who_holds_keeps_it(coordinator: Coordinator) -> None:
    holder, waiting, behind = request(), request(), request()
    coordinator.ask(holder, waiting, behind)

    coordinator.withdraw(holder.token, waiting.token)

    assert line(coordinator.connection) == [holder.run, behind.run]
    assert answers(coordinator.connection) == {holder.token: "StepSucceeded", waiting.token: "StepNeverStarted"}


def test_a_run_lets_go_of_all_it_holds_and_of_its_places_in_line(coordinator: Coordinator) -> None:
    run = uuid4()
    held, theirs, mine = request("a", run=run), request("b"), request("b", run=run)
    waiting = request("a")
    coordinator.ask(held, theirs, mine, waiting)

    coordinator.release(run)

    assert holders(coordinator.connection, "a") == [waiting.run]
    assert line(coordinator.connection, "b") == [theirs.run]
    coordinator.release(theirs.run)
    assert line(coordinator.connection, "b") == []


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_a_run_that_asks_and_ends_in_one_batch_leaves_no_place(coordinator: Coordinator, taken: bool) -> None:
    holder, brief = request(), request()
    if taken:
        coordinator.ask(holder)

    coordinator.commit(Batch(lock_requests=[brief], locks_released=[brief.run]))

    assert line(coordinator.connection) == ([holder.run] if taken else [])
    assert brief.token not in answers(coordinator.connection)


def test_a_run_that_asks_and_withdraws_in_one_batch_is_told_that_it_never_began(coordinator: Coordinator) -> None:
    holder, brief = request(), request()
    coordinator.ask(holder)

    coordinator.commit(Batch(lock_requests=[brief], locks_withdrawn=[brief.token]))

    assert line(coordinator.connection) == [holder.run]
    assert answers(coordinator.connection)[brief.token] == "StepNeverStarted"


def test_a_batch_that_touches_no_lock_leaves_all_as_it_is(coordinator: Coordinator) -> None:
    asked = request()
    coordinator.ask(asked)

    coordinator.commit(Batch(locks_withdrawn=[uuid4()], locks_released=[uuid4()]))

    assert line(coordinator.connection) == [asked.run]


def test_postgres_itself_refuses_a_second_holder(world: World, coordinator: Coordinator) -> None:
    coordinator.ask(request(), request())

    with pytest.raises(psycopg.errors.UniqueViolation, match="lock_one_holder"):
        world.connect_as_owner().execute("UPDATE saga.lock SET held = true")


# -- two at once -------------------------------------------------------------------------------------------------------


def racing(first: Coordinator, second: Coordinator, batches: tuple[Batch, Batch], *, rolls_back: bool) -> None:
    """Commit two batches that touch one name, the second while the first is open; `rolls_back`: the first is not."""
    waiting: Future[Any]
    try:
        with first.connection.transaction():
            first.commit(batches[0])
            waiting = in_thread(second.commit, batches[1])
            wait_until_blocked(first.world.connect(), second.connection)
            if rolls_back:
                raise psycopg.Rollback
    finally:
        waiting.result(10)


@pytest.mark.parametrize("swapped", [False, True], ids=["one first", "the other first"])
@pytest.mark.parametrize("rolls_back", [False, True], ids=["commits", "rolls back"])
def test_two_who_race_for_a_name_get_it_in_the_order_of_their_commits(
    coordinator: Coordinator, other: Coordinator, swapped: bool, rolls_back: bool
) -> None:
    first, second = (other, coordinator) if swapped else (coordinator, other)
    earlier, later = request(), request()

    racing(first, second, (Batch(lock_requests=[earlier]), Batch(lock_requests=[later])), rolls_back=rolls_back)

    expected = [later] if rolls_back else [earlier, later]
    assert line(coordinator.connection) == [one.run for one in expected]
    assert answers(coordinator.connection) == {expected[0].token: "StepSucceeded"}


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "hasty"])
@pytest.mark.parametrize("rolls_back", [False, True], ids=["commits", "rolls back"])
def test_one_who_asks_while_the_holder_lets_go_is_answered_once(
    coordinator: Coordinator, other: Coordinator, wait: bool, rolls_back: bool
) -> None:
    holder, asking = request(), request(wait=wait)
    coordinator.ask(holder)

    batches = (Batch(locks_released=[holder.run]), Batch(lock_requests=[asking]))
    racing(coordinator, other, batches, rolls_back=rolls_back)

    told = answers(coordinator.connection).get(asking.token)
    if not rolls_back:
        assert (holders(coordinator.connection), told) == ([asking.run], "StepSucceeded")
    else:
        assert holders(coordinator.connection) == [holder.run]
        assert told == (None if wait else "StepFailed")


@pytest.mark.parametrize("withdraws_first", [False, True])
def test_one_who_withdraws_while_the_holder_lets_go_has_it_or_never_began(
    coordinator: Coordinator, other: Coordinator, withdraws_first: bool
) -> None:
    holder, waiting, behind = request(), request(), request()
    coordinator.ask(holder, waiting, behind)
    lets_go, withdraws = Batch(locks_released=[holder.run]), Batch(locks_withdrawn=[waiting.token])

    batches = (withdraws, lets_go) if withdraws_first else (lets_go, withdraws)
    racing(coordinator, other, batches, rolls_back=False)

    told = answers(coordinator.connection)
    if withdraws_first:
        assert (told[waiting.token], holders(coordinator.connection)) == ("StepNeverStarted", [behind.run])
    else:
        assert (told[waiting.token], holders(coordinator.connection)) == ("StepSucceeded", [waiting.run])


def test_batches_that_touch_names_in_opposite_orders_do_not_deadlock(
    world: World, coordinator: Coordinator, other: Coordinator
) -> None:
    third = Coordinator(world)
    batches = {one: [request(name, run=uuid4()) for name in names] for one, names in ((0, "acb"), (1, "bca"))}

    # Both stand at the name in the middle: each would have one that the other still needs.
    with third.connection.transaction():
        third.ask(request("c"))
        waiting = [in_thread(one.ask, *batches[number]) for number, one in enumerate((coordinator, other))]
        for one in (coordinator, other):
            wait_until_blocked(world.connect(), one.connection)

    for asked in waiting:
        assert asked.result(10) is not None
    assert len(line(third.connection, "a")) == len(line(third.connection, "b")) == 2


def test_many_who_ask_and_let_go_at_once_never_hold_it_together(world: World) -> None:
    seen: list[int] = []

    def play(one: Coordinator) -> None:
        for _ in range(ROUNDS):
            asked = request()
            one.ask(asked)
            seen.append(len(holders(one.connection)))
            one.release(asked.run)

    for one in [in_thread(play, Coordinator(world)) for _ in range(4)]:
        one.result(60)

    assert set(seen) == {1}
    assert line(world.connect()) == []


def test_the_bells_of_sleeping_coordinators_hold_up_no_lock(world: World, coordinator: Coordinator) -> None:
    hashed = coordinator.connection.execute("SELECT hashtext(%s) & 1073741823", (LIKE_A_BELL,)).fetchone()
    assert hashed is not None
    assert hashed[0] in range(64)
    doorbell = Doorbell(world.connect(), SCHEMA)
    assert doorbell.try_sleep(range(64))

    in_thread(coordinator.ask, request(LIKE_A_BELL)).result(10)

    assert doorbell.wait(10).shards == {7}
    doorbell.wake()


# -- who is rung -------------------------------------------------------------------------------------------------------


def rung(world: World, coordinator: Coordinator, batch: Batch, *shards: int) -> Rings:
    """Commit while the coordinators of these shards sleep; return which were rung."""
    doorbell = Doorbell(world.connect(), SCHEMA)
    assert doorbell.try_sleep(shards)
    waiting = in_thread(doorbell.wait, 10)
    coordinator.commit(batch)
    rings = waiting.result(15)
    doorbell.wake()
    return rings


def test_the_coordinator_of_a_run_is_rung_when_it_is_answered(world: World, coordinator: Coordinator) -> None:
    holder, next_one, hasty = request(shard=3), request(shard=5), request(shard=9, wait=False)

    assert rung(world, coordinator, Batch(lock_requests=[holder]), 3, 5).shards == {3}
    coordinator.ask(next_one)
    assert rung(world, coordinator, Batch(lock_requests=[hasty]), 9).shards == {9}
    assert rung(world, coordinator, Batch(locks_released=[holder.run]), 3, 5).shards == {5}
    waiting = request(shard=11)
    coordinator.ask(waiting)
    assert rung(world, coordinator, Batch(locks_withdrawn=[waiting.token]), 5, 11).shards == {11}


def test_a_batch_that_is_refused_moves_no_line(world: World, coordinator: Coordinator) -> None:
    asked = request()
    run: NewRun = new_run()
    coordinator.commit(Batch(runs=[run]))

    with pytest.raises(Superseded):
        coordinator.commit(Batch(runs=[run], lock_requests=[asked]))

    assert line(world.connect()) == []
    assert inbox(world.connect()) == []
