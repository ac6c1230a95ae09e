"""What was to be reached, held against records: ratios to Celery's chain within the same round of the same command."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.ranking import percentile
from benchmarks.record import Record, of

#: The goals: throughput and latency against the chain's, the cost of a late step, recovery after the lease.
THROUGHPUT_MIN = 0.75
LATENCY_MAX = 2.5
LENGTH_MAX = 1.2
RECOVERY_SECONDS_MAX = 2.0
#: With a crowd of runs that wait: CPU of a core at rest in percent, and ratios to the same without; timers, in seconds.
REST_PERCENT_MAX = 2.0
CROWDED_THROUGHPUT_MIN = 0.9
CROWDED_LATENCY_MAX = 1.3
LATE_SECONDS_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: what, how much, what was found, and whether that is enough (None: it is only reported)."""

    what: str
    wanted: str
    found: str
    reached: bool | None


def goals(records: Sequence[Record]) -> list[Goal]:
    """Hold every goal that the records speak of against them."""
    plain = [record for record in of(records, "four") if not record.values["events"]]
    found = []
    best = _best(plain, "chain")
    if best is not None and any(record.system == "saga" for record in plain):
        found += _against_chain(plain, best)
    found += _with_events(of(records, "four"))
    found += _lengths(of(records, "length"))
    times = [time for record in of(records, "recovery") for time in record.values["resumed_seconds"]]
    if times:
        limit = of(records, "recovery")[0].values["lease_seconds"] + RECOVERY_SECONDS_MAX
        said = f"p50 {statistics.median(times):.2f} s, max {max(times):.2f} s of {len(times)} runs"
        found.append(Goal("recovery from a killed coordinator", f"≤ {limit:g} s", said, max(times) <= limit))
    for record in of(records, "soak"):
        what = f"false takeovers in {record.values['minutes']:g} minutes at 100% CPU"
        takeovers = record.values["takeovers"]
        found.append(Goal(what, "0", str(takeovers), takeovers == 0))
    return found + _waiting(of(records, "waiting")) + _timers(of(records, "timers"))


def _waiting(records: list[Record]) -> list[Goal]:
    crowded = [record for record in records if record.values["crowded"]]
    if not crowded:
        return []
    runs = crowded[0].values["runs"]
    rest = [record.values["rest_cpu_percent"]["coordinator"] for record in crowded]
    said = f"{statistics.median(rest):.2f}% ({min(rest):.2f} to {max(rest):.2f})"
    wanted = f"≤ {REST_PERCENT_MAX:g}%"
    found = [Goal(f"coordinator at rest, {runs} runs wait", wanted, said, statistics.median(rest) <= REST_PERCENT_MAX)]
    for what, value, limits in (
        ("throughput", _throughput, {"at_least": CROWDED_THROUGHPUT_MIN}),
        ("p50 of a start", lambda record: _middle(record, "start_ms"), {"at_most": CROWDED_LATENCY_MAX}),
        ("p50 of a signal", lambda record: _middle(record, "signal_ms"), {"at_most": CROWDED_LATENCY_MAX}),
        ("coordinator CPU a saga", lambda record: float(record.values["coordinator_ms_per_saga"]), {}),
    ):
        found.append(_goal(f"{what} with {runs} that wait, of that without", _of_empty(records, value), **limits))
    return found


def _of_empty(records: list[Record], value: Callable[[Record], float]) -> list[float]:
    """Return the value with the crowd over the one without, for each round that has both."""
    empty = {record.round: value(record) for record in records if not record.values["crowded"]}
    crowded = [record for record in records if record.values["crowded"]]
    return [value(record) / empty[record.round] for record in crowded if empty.get(record.round)]


def _middle(record: Record, name: str) -> float:
    return float(statistics.median(record.values[name]))


def _timers(records: list[Record]) -> list[Goal]:
    found = []
    for record in records:
        values = record.values
        late = percentile(values["late_seconds"], 0.99)
        ready = values["slack_seconds"] >= 0
        what = f"p99 lateness, {values['per_second']:g} a second of {values['pending']} pending timers"
        found.append(
            Goal(what, f"≤ {LATE_SECONDS_MAX:g} s", f"{late:.3f} s", late <= LATE_SECONDS_MAX if ready else None)
        )
        earliest = values["earliest_seconds"]
        found.append(Goal("the earliest of them, after it was due", "≥ 0 s", f"{earliest:.4f} s", earliest >= 0))
    return found


#: This engine with Celery's own settings, and as `doctor` advises for workers that serve steps only.
OURS = {"saga": "with ack emulation", "saga_no_acks": "ours without ack emulation, as doctor advises"}


def _against_chain(plain: list[Record], chain_best: str) -> list[Goal]:
    found = []
    for system, how in OURS.items():
        ours_best = _best(plain, system)
        if ours_best is None:
            continue
        # Of a pair with the same workers the latency is the fairest: it depends on the pool.
        same = _ratios(plain, chain_best, chain_best, _throughput, ours=system)
        best = _ratios(plain, ours_best, chain_best, _throughput, ours=system)
        slower = _ratios(plain, chain_best, chain_best, _latency, ours=system)
        last = _ratios(plain, chain_best, chain_best, _last_step, ours=system)
        for what, ratios, limits in (
            (f"throughput, of the chain's, both with {chain_best}", same, {"at_least": THROUGHPUT_MIN}),
            (f"throughput, of the chain's, best ({ours_best} / {chain_best})", best, {"at_least": THROUGHPUT_MIN}),
            (f"idle p50, of the chain's, both with {chain_best}", slower, {"at_most": LATENCY_MAX}),
            ("the same p50 to the end of the last step", last, {}),
        ):
            found.append(_goal(f"{what}; {how}", ratios, **limits))
    return found


def _with_events(four: list[Record]) -> list[Goal]:
    sent = [record for record in four if record.values["events"]]
    choices = {record.choice for record in sent}
    return [
        _goal(f"throughput, of the chain's, both with {choice} -E", ratios)
        for choice in sorted(choices)
        if (ratios := _ratios(sent, choice, choice, _throughput))
    ]


def _lengths(records: list[Record]) -> list[Goal]:
    found = []
    for cache in (None, 1):
        of_cache = [record for record in records if record.values["cache_runs"] == cache]
        lengths = sorted({record.values["steps"] for record in of_cache})
        if len(lengths) < 2:
            continue
        short, long = lengths[0], lengths[-1]
        for name, value in (("coordinator CPU", "coordinator_cpu_ms"), ("wall", "wall_ms")):
            costs = [
                statistics.median(record.values[value] for record in of_cache if record.values["steps"] == steps)
                for steps in (short, long)
            ]
            ratio = costs[1] / costs[0] if costs[0] else float("inf")
            what = f"{name} a step at {long} steps, of that at {short}, {'cached' if cache is None else 'cache of 1'}"
            wanted = f"≤ {LENGTH_MAX}" if cache is None else "-"
            found.append(Goal(what, wanted, f"{ratio:.2f}", ratio <= LENGTH_MAX if cache is None else None))
    return found


def _best(plain: list[Record], system: str) -> str | None:
    """Return the choice of workers with which a system was fastest, by the median of its rounds."""
    speeds: dict[str, list[float]] = {}
    for record in plain:
        if record.system == system:
            speeds.setdefault(record.choice, []).append(_throughput(record))
    return max(speeds, key=lambda choice: statistics.median(speeds[choice]), default=None)


def _ratios(
    records: list[Record],
    saga_choice: str,
    chain_choice: str,
    value: Callable[[Record], float],
    *,
    ours: str = "saga",
) -> list[float]:
    """Return this engine's value over the chain's, for each round that has both."""
    mine = {r.round: value(r) for r in records if r.system == ours and r.choice == saga_choice}
    theirs = {r.round: value(r) for r in records if r.system == "chain" and r.choice == chain_choice}
    return [mine[number] / theirs[number] for number in sorted(mine.keys() & theirs.keys())]


def _goal(what: str, ratios: list[float], *, at_least: float | None = None, at_most: float | None = None) -> Goal:
    """Hold the median of ratios against a limit; without one it is only reported, with its spread in either case."""
    middle = statistics.median(ratios) if ratios else None
    said = "not measured" if middle is None else f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    if at_least is not None:
        return Goal(what, f"≥ {at_least}", said, middle is not None and middle >= at_least)
    if at_most is not None:
        return Goal(what, f"≤ {at_most}", said, middle is not None and middle <= at_most)
    return Goal(what, "-", said, None)


def _throughput(record: Record) -> float:
    return float(record.values["sagas_per_second"])


def _latency(record: Record) -> float:
    return float(statistics.median(record.values["idle_ms"]))


def _last_step(record: Record) -> float:
    return float(statistics.median(record.values["idle_last_step_ms"]))
