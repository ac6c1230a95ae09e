"""Runs a plan from end to end and writes what it finds. What a measurement means it must not know."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path

from rich.console import Console

from benchmarks import drain, hops, length, recovery, spying, timers, waiting
from benchmarks.crowd import crowd
from benchmarks.fleet import PREFORK_2, Ground, open_ground
from benchmarks.meter import PostgresMeter
from benchmarks.plan import Plan
from benchmarks.record import Records, versions
from benchmarks.systems import SAGA


class Part(StrEnum):
    """A part of a plan that can be run alone."""

    FOUR = "four"  # sagas of four steps: this engine, Celery's chain, the ceiling
    LENGTH = "length"
    RECOVERY = "recovery"
    SOAK = "soak"
    HOPS = "hops"
    WAITING = "waiting"  # many runs that wait for a signal, then timers among theirs
    PROFILE = "profile"


def run(plan: Plan, *, parts: frozenset[Part], folder: Path, json_path: Path, console: Console) -> None:
    """Measure every chosen part, each record written as soon as it is there.

    Raises:
        ConfigurationError: a server does not start.
        Stuck: a measurement does not come to its end.
        TookTooLong: coordinators do not share, or a held run does not go on.
    """
    measures: dict[Part, Callable[[Ground, Plan, Records, Console], None]] = {
        Part.FOUR: _four,
        Part.LENGTH: _length,
        Part.HOPS: _hops,
        Part.PROFILE: _profile,
        Part.RECOVERY: _recovery,
        Part.SOAK: _soak,
        Part.WAITING: _waiting,
    }
    with open_ground(folder) as ground:
        records = Records(json_path, settings=plan.settings(), versions=versions(ground.servers))
        console.print(f"seed {plan.seed}, {plan.rounds} interleaved rounds, {plan.settings()}", highlight=False)
        for part, measure in measures.items():
            if part in parts:
                measure(ground, plan, records, console)


def _four(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    meter = PostgresMeter(ground.servers.superuser_url)
    try:
        for turn in plan.turns():
            rng = plan.rng("four", turn.round)
            found = drain.measure(ground, meter, turn.system, turn.choice, plan.size, events=turn.events, rng=rng)
            records.add(
                "four",
                system=turn.system.name,
                choice=turn.choice.name,
                round=turn.round,
                events=turn.events,
                commits_from=meter.commits_from,
                fsyncs_from=meter.fsyncs_from,
                **asdict(found),
            )
            _say(
                console,
                f"round {turn.round}  {turn.system.name:5}  {turn.choice.name}{' -E' * turn.events}: "
                f"{found.sagas_per_second} sagas/s",
            )
    finally:
        meter.close()


def _length(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    for number, lengths in plan.lengths():
        cost = length.measure(ground, lengths)
        records.add("length", choice=PREFORK_2.name, round=number, **asdict(lengths), **asdict(cost))
        cached = "" if lengths.cache_runs is None else f", cache of {lengths.cache_runs}"
        _say(console, f"runs of {lengths.steps} steps{cached}: {cost.coordinator_cpu_ms} ms CPU a step")


def _hops(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    found = hops.measure(ground, sagas=plan.hops, rng=plan.rng("hops"))
    records.add("hops", choice=PREFORK_2.name, hops=[asdict(hop) for hop in found])
    _say(console, f"one idle step, commit to commit: {found[-1].p50_ms} ms")


def _profile(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    if not plan.profile:
        return
    meter = PostgresMeter(ground.servers.superuser_url)
    size = drain.Size(plan.profiled_sagas, 0)
    try:
        drain.measure(
            ground,
            meter,
            SAGA,
            PREFORK_2,
            size,
            rng=random.Random(plan.seed),
            during=lambda fleet: spying.spying(fleet, ground.folder),
        )
    finally:
        meter.close()
    for role, portrait in spying.portraits(ground.folder).items():
        records.add("profile", choice=PREFORK_2.name, role=role, **asdict(portrait))
        _say(console, f"profile of {role}: {portrait.samples} samples")


def _recovery(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    found = recovery.measure(
        ground, kills=plan.kills, in_flight=plan.recovery_in_flight, lease_seconds=plan.lease_seconds
    )
    for number, kill in enumerate(found, start=1):
        records.add("recovery", choice=PREFORK_2.name, round=number, in_flight=plan.recovery_in_flight, **asdict(kill))
        slowest = max(kill.resumed_seconds, default=0.0)
        _say(console, f"kill {number}: {len(kill.resumed_seconds)} runs held, the last one went on after {slowest} s")


def _soak(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    if not plan.soak_minutes:
        return
    found = recovery.soak(
        ground, minutes=plan.soak_minutes, in_flight=plan.recovery_in_flight, lease_seconds=plan.lease_seconds
    )
    records.add("soak", choice=PREFORK_2.name, **asdict(found))
    _say(console, f"{found.minutes:g} minutes at 100% CPU: {found.takeovers} takeovers")


def _waiting(ground: Ground, plan: Plan, records: Records, console: Console) -> None:
    with crowd(ground, plan.waiting_runs) as waits:
        records.add("crowd", runs=waits.runs, per_second=waits.started_per_second, database_mib=waits.database_mib)
        _say(console, f"{waits.runs} runs wait, started {waits.started_per_second} a second: {waits.database_mib} MiB")
        for number in range(1, plan.rounds + 1):
            for crowded in (False, True) if number % 2 else (True, False):
                rng = plan.rng("waiting", number)
                found = waiting.measure(ground, waits if crowded else None, plan.waits, rng=rng)
                records.add("waiting", choice=PREFORK_2.name, round=number, crowded=crowded, **asdict(found))
                _say(
                    console,
                    f"round {number}  {found.runs:6} wait: {found.rest_cpu_percent['coordinator']}% of a core at rest, "
                    f"{found.coordinator_mib} MiB, {found.sagas_per_second} sagas/s, "
                    f"start {statistics.median(found.start_ms)} ms, signal {statistics.median(found.signal_ms)} ms",
                )
    with crowd(ground, plan.waiting_runs, sleeping=True) as sleeps:
        late = timers.measure(ground, sleeps, plan.falling)
    records.add("timers", **asdict(late))
    _say(console, f"{late.fired} timers among {late.pending}: the latest {max(late.late_seconds)} s late")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
