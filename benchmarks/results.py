"""Writes RESULTS.md from records, and says what was reached and what was not. It measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.goals import Goal, goals
from benchmarks.ranking import percentile, spread
from benchmarks.record import Record, of
from benchmarks.systems import SYSTEMS

TITLES = {system.name: system.title for system in SYSTEMS}
ROLES = ("coordinator", "worker_main", "worker_child", "postgres", "broker", "client")
Row = Sequence[str]

_HEAD = """# Results

Written by `make bench` from its own JSON lines, not by hand; `python -m benchmarks --from FILE` writes it again.

One saga is four sequential no-op steps that return a small dict. All systems take turns in interleaved rounds of one
command, each with fresh processes, a fresh database and an empty broker; a figure is the median of the rounds, with the
smallest and the largest in brackets. Throughput is that of a backlog: all sagas are sent while workers and coordinator
are frozen, and the clock runs from the thaw to the end of the last saga. Latency is one saga at a time, from just
before it is sent: to the commit of the run's end for this engine (its last step ends earlier, and is given beside), to
the end of the last task for the chain. What counts are ratios within one command: the machine may be shared.
"""


def write(records: Sequence[Record]) -> str:
    """Return RESULTS.md as text.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("there are no records: run `python -m benchmarks` first")
    sections = [_HEAD, _conditions(records)]
    for title, section in (
        ("What was to be reached", _goals),
        ("Throughput and latency", _speed),
        ("CPU per step, in ms", _cpu),
        ("What Postgres writes per saga", _written),
        ("Memory, in MiB", _memory),
        ("Cost of a step in a long run", _length),
        ("Recovery from a killed coordinator", _recovery),
        ("At 100% CPU", _soak),
        ("Many runs that wait", _waiting),
        ("Timers", _timers),
        ("The hops of one step, idle", _hops),
        ("Where the time goes", _profile),
    ):
        text = section(records)
        if text:
            sections.append(f"## {title}\n\n{text}")
    return "\n".join(sections)


def speed_rows(records: Sequence[Record]) -> list[Row]:
    """Return the rows of the main table: its head, then one row a system and choice."""
    rows: list[Row] = [("system", "workers", "sagas/s", "p50 ms", "p99 ms", "last step p50 / p99 ms")]
    for records_of_row in _groups(records):
        first = records_of_row[0]
        idle = [time for record in records_of_row for time in record.values["idle_ms"]]
        last = [time for record in records_of_row for time in record.values["idle_last_step_ms"]]
        medians = [statistics.median(record.values["idle_ms"]) for record in records_of_row if record.values["idle_ms"]]
        rows.append(
            (
                TITLES[first.system],
                _choice(first),
                spread(record.values["sagas_per_second"] for record in records_of_row),
                spread(medians),
                f"{percentile(idle, 0.99):.1f}" if idle else "-",
                f"{statistics.median(last):.1f} / {percentile(last, 0.99):.1f}" if last else "-",
            )
        )
    return rows


def goal_rows(records: Sequence[Record]) -> list[Row]:
    """Return what was to be reached against what was found."""
    rows: list[Row] = [("what", "to reach", "found", "")]
    return rows + [(goal.what, goal.wanted, goal.found, _verdict(goal)) for goal in goals(records)]


def _verdict(goal: Goal) -> str:
    return "reported" if goal.reached is None else "reached" if goal.reached else "NOT reached"


def _conditions(records: Sequence[Record]) -> str:
    first = records[0]
    loads = [record.machine["load_1_minute"] for record in records]
    machine = ", ".join(f"{name.replace('_', ' ')} {first.machine[name]}" for name in ("cores", "memory_gib", "system"))
    versions = ", ".join(f"{name} {number}" for name, number in first.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in first.settings.items())
    return (
        f"- Machine: {machine}; load of one minute {min(loads)} to {max(loads)}\n- Versions: {versions}\n"
        f"- Settings: {settings}\n- Measured: {first.at} to {records[-1].at}\n"
    )


def _goals(records: Sequence[Record]) -> str:
    return _table(goal_rows(records))


def _speed(records: Sequence[Record]) -> str:
    return _table(speed_rows(records))


def _cpu(records: Sequence[Record]) -> str:
    def cells(found: list[Record]) -> list[str]:
        spent = [record.values["cpu_ms_per_step"] for record in found]
        total = [sum(each.values()) for each in spent]
        return [*(spread((each.get(role, 0.0) for each in spent), digits=2) for role in ROLES), spread(total, digits=2)]

    return _by_group(
        records, ["coordinator", "worker main", "worker children", "Postgres", "broker", "client", "all"], cells
    )


def _written(records: Sequence[Record]) -> str:
    names = ("commits_per_saga", "fsyncs_per_saga", "wal_bytes_per_saga", "transactions_per_saga")

    def cells(found: list[Record]) -> list[str]:
        return [spread((record.values["written"][name] for record in found), digits=1) for name in names]

    table = _by_group(records, ["commits", "fsyncs", "WAL bytes", "transactions, also reading"], cells)
    if not table:
        return ""
    source = of(records, "four")[0].values
    return f"{table}\nCommits: {source['commits_from']}. Fsyncs: {source['fsyncs_from']}.\n"


def _memory(records: Sequence[Record]) -> str:
    def cells(found: list[Record]) -> list[str]:
        return [
            spread((record.values["memory_mib"].get(role, 0.0) for record in found), digits=0) for role in ROLES[:5]
        ]

    table = _by_group(records, ["coordinator", "worker main", "worker children", "Postgres", "broker"], cells)
    return table and f"{table}\nResident memory of all processes of a role together; shared pages count in each.\n"


def _length(records: Sequence[Record]) -> str:
    rows: list[Row] = [("runs of", "cache", "coordinator CPU ms a step", "wall ms a step", "runs in flight")]
    found = of(records, "length")
    for steps, cache in _lengths_of(found):
        same = [r for r in found if (r.values["steps"], r.values["cache_runs"]) == (steps, cache)]
        rows.append(
            (
                f"{steps} steps",
                "default" if cache is None else str(cache),
                spread((r.values["coordinator_cpu_ms"] for r in same), digits=3),
                spread((r.values["wall_ms"] for r in same), digits=3),
                str(same[0].values["in_flight"]),
            )
        )
    return _table(rows)


def _lengths_of(found: list[Record]) -> list[tuple[int, int | None]]:
    """Return steps and cache sizes, the default cache first."""
    return sorted({(r.values["steps"], r.values["cache_runs"]) for r in found}, key=lambda k: (k[1] is not None, k[0]))


def _recovery(records: Sequence[Record]) -> str:
    rows: list[Row] = [("kill", "runs held", "p50 s", "max s")]
    for record in of(records, "recovery"):
        times = record.values["resumed_seconds"]
        if times:
            rows.append((str(record.round), str(len(times)), f"{statistics.median(times):.2f}", f"{max(times):.2f}"))
    if len(rows) == 1:
        return ""
    lease = of(records, "recovery")[0].values["lease_seconds"]
    return (
        f"{_table(rows)}\nLease {lease:g} s. From SIGKILL of one of two coordinators to the first event of each run on "
        "its shards; 60 s stands for a run that did not go on.\n"
    )


def _soak(records: Sequence[Record]) -> str:
    lines = [
        f"{r.values['minutes']:g} minutes with {r.values['burners']} processes burning beside two coordinators, a "
        f"worker node and a steady load: {r.values['takeovers']} takeovers, {r.values['coordinators_exited']} "
        f"coordinators gone, {r.values['attempts_lost']} attempts taken for lost, {r.values['runs_ended']} runs ended. "
        f"The shortest that any lease had left was {r.values['least_lease_left_seconds']} of "
        f"{r.values['lease_seconds']:g} s.\n"
        for r in of(records, "soak")
    ]
    return "\n".join(lines)


def _waiting(records: Sequence[Record]) -> str:
    head = (
        "runs that wait",
        "in memory",
        "coordinator, % of a core at rest",
        "Postgres, %",
        "coordinator MiB",
        "sagas/s",
        "coordinator CPU ms a saga",
    )
    rows: list[Row] = [(*head, "start p50 / p99 ms", "signal p50 / p99 ms")]
    found = of(records, "waiting")
    for crowded in (False, True):
        same = [record.values for record in found if record.values["crowded"] is crowded]
        if same:
            rows.append(
                (
                    str(same[0]["runs"]),
                    str(same[0]["cached"]) if crowded else "all",
                    spread((values["rest_cpu_percent"]["coordinator"] for values in same), digits=2),
                    spread((values["rest_cpu_percent"]["postgres"] for values in same), digits=2),
                    spread((values["coordinator_mib"] for values in same), digits=0),
                    spread(values["sagas_per_second"] for values in same),
                    spread((values["coordinator_ms_per_saga"] for values in same), digits=2),
                    _p50_p99([time for values in same for time in values["start_ms"]]),
                    _p50_p99([time for values in same for time in values["signal_ms"]]),
                )
            )
    if len(rows) == 1:
        return ""
    made = [
        f"The {record.values['runs']} were made by real starts, {record.values['per_second']:g} a second, and copied "
        f"with their database ({record.values['database_mib']:g} MiB) for each round. "
        for record in of(records, "crowd")
    ]
    return (
        f"{_table(rows)}\n{''.join(made)}At rest nothing is sent. Starts and signals are one at a time, to the commit "
        "of the turn that takes them; a signal goes to any of the runs, most of them not in memory. The memory is as "
        "full of runs as the cache lets it be.\n"
    )


def _timers(records: Sequence[Record]) -> str:
    head = ("pending", "due a second", "fired", "late p50 s", "p99 s", "max s", "earliest s", "coordinator %")
    rows: list[Row] = [head]
    for record in of(records, "timers"):
        values, late = record.values, record.values["late_seconds"]
        rows.append(
            (
                str(values["pending"]),
                f"{values['per_second']:g}",
                str(values["fired"]),
                *(f"{seconds:.3f}" for seconds in (statistics.median(late), percentile(late, 0.99), max(late))),
                f"{values['earliest_seconds']:.4f}",
                f"{values['coordinator_cpu_percent']:g}",
            )
        )
    if len(rows) == 1:
        return ""
    return (
        f"{_table(rows)}\nLateness is from when a timer was due to the commit of the turn that fired it; `earliest` is "
        "the least from there to the beginning of the turn, by Postgres' clock. Another coordinator had set them.\n"
    )


def _p50_p99(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} / {percentile(times, 0.99):.1f}"


def _hops(records: Sequence[Record]) -> str:
    rows: list[Row] = [("to", "p50 ms", "p99 ms")]
    for record in of(records, "hops"):
        for hop in record.values["hops"]:
            rows.append((hop["meaning"], f"{hop['p50_ms']:.2f}", f"{hop['p99_ms']:.2f}"))
    return _table(rows)


def _profile(records: Sequence[Record]) -> str:
    parts = []
    for record in of(records, "profile"):
        role = record.values["role"].replace("_", " ")
        owners = ", ".join(f"{share['name']} {share['percent']}%" for share in record.values["owners"])
        rows: list[Row] = [("function, with what it calls", "%", "function by itself", "%")]
        pairs = zip(record.values["with_callees"], record.values["by_itself"], strict=False)
        rows += [(f"`{a['name']}`", str(a["percent"]), f"`{b['name']}`", str(b["percent"])) for a, b in pairs]
        samples = record.values["samples"]
        parts.append(f"### {role.capitalize()}\n\n{samples} samples of py-spy. Whose code: {owners}.\n\n{_table(rows)}")
    return "\n".join(parts)


def _by_group(records: Sequence[Record], head: list[str], cells: Callable[[list[Record]], list[str]]) -> str:
    rows: list[Row] = [("system", "workers", *head)]
    rows += [(TITLES[found[0].system], _choice(found[0]), *cells(found)) for found in _groups(records)]
    return _table(rows)


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of the main comparison by choice and system, those with Celery's events last."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in of(records, "four"):
        groups.setdefault((record.values["events"], record.choice, record.system), []).append(record)
    order = list(TITLES)
    choices = list(dict.fromkeys(key[1] for key in groups))
    return [groups[key] for key in sorted(groups, key=lambda k: (k[0], choices.index(k[1]), order.index(k[2])))]


def _choice(record: Record) -> str:
    return record.choice + (" -E" if record.values["events"] else "")


def _table(rows: Sequence[Row]) -> str:
    """Return a head and its rows as Markdown; nothing where there are no rows."""
    head, *body = rows
    if not body:
        return ""
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
