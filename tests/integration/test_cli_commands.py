"""The commands against a real coordinator and a real worker: each one's success, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from saga.cli import embedded
from saga.core.errors import ReplayMismatch
from saga.engine.client import Handle
from saga.engine.installation import installation_of
from saga.testing import record, replay
from tests.integration import cli_app
from tests.integration.cli_runs import (
    APP,
    Commands,
    environment,
    eventually,
    process,
    refused_for_its_role,
    run,
    use_servers,
)

#: A broker database that no other test's counter reaches.
_BROKER_DATABASE = "/63"


@pytest.fixture(scope="module")
def commands(
    servers: embedded.Servers, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Commands]:
    """The commands on an application that a coordinator and a worker serve."""
    made = servers.create_database(f"saga_cli_{uuid.uuid4().hex[:8]}", template=template_database)
    broker = servers.broker_url
    if servers.valkey is not None:
        broker = urlsplit(broker)._replace(path=_BROKER_DATABASE).geturl()
    with redis.Redis.from_url(broker) as client:
        client.flushdb()
    env = environment(made.url, broker)
    logs = tmp_path_factory.mktemp("cli")
    use_servers(made.url, broker)
    worker = ("celery", "-A", APP, "worker", "--concurrency=2", "--loglevel=INFO", "--queues=shelf")
    with (
        process("saga.cli", "-A", APP, "coordinator", env=env, log=logs / "coordinator.log"),
        process(*worker, env=env, log=logs / "worker.log"),
    ):
        yield Commands(cli_app.app)
    servers.drop_database(made.name)


def wares(mishap: str = "") -> str:
    return json.dumps({"name": "cup", "grams": 300, "mishap": mishap})


def start(commands: Commands, key: str, mishap: str = "") -> str:
    commands.json("start", "ship", "--id", key, "--input", wares(mishap))
    return f"ship/{key}"


def until(commands: Commands, run: str, status: str) -> Any:
    return eventually(
        lambda: json.loads(commands.call("show", run, "--json").stdout),
        lambda shown: shown["run"]["status"] == status,
    )


def test_a_started_run_completes_and_is_shown_as_a_timeline(commands: Commands) -> None:
    started = commands.call("start", "ship", "--id", "plain", "--input", wares())
    assert started.stdout.strip() == "ship/plain"

    shown = until(commands, "ship/plain", "completed")

    attempts = [entry for entry in shown["timeline"] if "direction" in entry]
    assert [(one["step"], one["direction"], one["state"]) for one in attempts] == [
        ("cli_app.pack#1", "action", "succeeded"),
        ("cli_app.address#1", "action", "succeeded"),
        ("cli_app.deliver#1", "action", "succeeded"),
    ]
    assert all(one["ran_seconds"] >= 0 and one["queued_seconds"] >= 0 and "/" in one["worker"] for one in attempts)
    assert shown["waiting"] == []
    text = commands.call("show", "ship/plain").stdout
    assert re.search(r"^ship/plain  completed$", text, re.MULTILINE)
    assert re.search(r"cli_app\.pack#1 +do +1 .* succeeded", text)
    assert "pivot passed" in text


def test_payloads_are_shown_only_on_request(commands: Commands) -> None:
    run = start(commands, "secretive")
    until(commands, run, "completed")

    hidden = commands.call("show", run).stdout + commands.call("show", run, "--json").stdout
    shown = commands.json("show", run, "--payloads")

    assert "cup" not in hidden
    assert shown["input"] == {"name": "cup", "grams": 300, "mishap": ""}
    assert shown["result"] == {"number": 300}
    assert '"number": 300' in commands.call("show", run, "--payloads").stdout.replace('":300', '": 300')


def test_an_exported_log_is_what_a_test_can_replay(commands: Commands) -> None:
    done, undone = start(commands, "kept"), start(commands, "undone", "nowhere")
    until(commands, done, "completed")
    until(commands, undone, "compensated")

    for address in (done, undone):
        exported = commands.call("export", address).stdout
        assert exported == record(Handle(installation_of(commands.app), *address.split("/")))
        assert commands.json("export", address) == json.loads(exported)
        replay(cli_app.ship, exported)
    with pytest.raises(ReplayMismatch, match="ship/kept"):
        replay(cli_app.ship, commands.call("export", done).stdout.replace("cli_app.address", "cli_app.draw"))
    assert "there is no run ship/nobody" in commands.error("export", "ship/nobody")


def test_starting_again_is_the_same_run(commands: Commands) -> None:
    run = start(commands, "twice")
    until(commands, run, "completed")

    again = commands.json("start", "ship", "--id", "twice", "--input", wares())

    assert again["existed"] is True


def test_a_taken_key_is_refused(commands: Commands) -> None:
    run = start(commands, "taken")
    until(commands, run, "completed")

    message = commands.error("start", "ship", "--id", "taken", "--input", wares("burst"))

    assert "run ship/taken exists with another input" in message
    assert "choose another id" in message


def test_input_comes_from_a_file_or_standard_input(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "wares.json"
    file.write_text(wares())

    commands.json("start", "ship", "--id", "by-file", "--input", f"@{file}")
    commands.json("start", "ship", "--id", "by-stdin", "--input", "-", given=wares())

    until(commands, "ship/by-file", "completed")
    until(commands, "ship/by-stdin", "completed")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"name": "cup"}', "grams: Field required; expected"),
        ('{"name": "cup", "grams": "many"}', "grams: Input should be a valid integer"),
        ("{", "Invalid JSON"),
        ("@/nowhere.json", "the file cannot be read"),
    ],
)
def test_input_that_does_not_fit_is_refused_and_nothing_is_sent(commands: Commands, given: str, said: str) -> None:
    message = commands.error("start", "ship", "--id", "misfit", "--input", given)

    assert said in message
    assert "--input" in message
    assert "there is no run ship/misfit" in commands.error("show", "ship/misfit")


def test_an_unknown_saga_or_version_is_refused_with_what_there_is(commands: Commands) -> None:
    assert "no saga 'shop'" in commands.error("start", "shop", "--id", "1", "--input", "{}")
    message = commands.error("start", "ship", "--id", "1", "--input", "{}", "--version", "7")
    assert "ship version 7" in message
    assert "ship version 1" in message


def test_an_unknown_run_is_refused_by_every_command(commands: Commands) -> None:
    for arguments in (
        ["show", "ship/none"],
        ["cancel", "ship/none"],
        ["terminate", "ship/none", "--yes"],
        ["retry", "ship/none"],
        ["resolve", "ship/none", "--step", "a", "--evidence", "b"],
    ):
        assert "there is no run ship/none" in commands.error(*arguments)
        document = commands.json(*arguments, exit_code=1)
        assert document["error"]["type"] == "UnknownRun"


def test_an_address_without_a_slash_is_explained(commands: Commands) -> None:
    assert "expected SAGA/KEY" in commands.error("show", "ship")


def test_an_ended_run_refuses_acts(commands: Commands) -> None:
    run = start(commands, "over")
    until(commands, run, "completed")

    assert "has ended (completed)" in commands.error("cancel", run)
    assert "has ended (completed)" in commands.error("terminate", run, "--yes")
    assert "only a stalled run" in commands.error("retry", run)
    assert "is not stuck" in commands.error("resolve", run, "--step", "cli_app.pack", "--evidence", "x")


def test_terminate_wants_a_yes(commands: Commands) -> None:
    run = start(commands, "confirmed", "weigh")

    assert "undoes nothing" in commands.error("terminate", run, exit_code=2)

    eventually(lambda: commands.call("terminate", run, "--yes").exit_code, lambda code: code == 0)
    until(commands, run, "terminated")


def test_errors_and_undo_are_in_the_timeline(commands: Commands) -> None:
    run = start(commands, "burst", "burst")

    shown = until(commands, run, "compensated")

    attempts = [(one["direction"], one["attempt"], one["state"]) for one in shown["timeline"] if "direction" in one]
    assert attempts == [("action", 1, "unknown"), ("action", 2, "unknown"), ("compensation", 1, "succeeded")]
    text = commands.call("show", run).stdout
    assert "RuntimeError: the box burst" in text
    assert re.search(r"cli_app\.pack#1 +undo +1 ", text)
    assert "compensated (failed)" in text


def test_a_stuck_undo_is_explained_retried_and_resolved(commands: Commands) -> None:
    run = start(commands, "glued", "glued")
    shown = until(commands, run, "stalled")
    assert "the tape does not come off" in str(shown["waiting"])
    assert "saga resolve ship/glued --step" in str(shown["waiting"])
    assert "stuck: cli_app.pack#1" in commands.error("retry", run, "--step", "cli_app.address")
    assert "an undo has no result" in commands.error(
        "resolve", run, "--step", "cli_app.pack", "--evidence", "x", "--result", "{}"
    )

    assert commands.json("retry", run, "--step", "cli_app.pack")["step"] == "cli_app.pack#1"
    eventually(
        lambda: sum("tape" in str(one) for one in commands.json("show", run)["timeline"] if one.get("direction")),
        lambda attempts: attempts == 2,
    )
    until(commands, run, "stalled")
    commands.json("resolve", run, "--step", "cli_app.pack", "--evidence", "Ann cut it open, 12:03")

    until(commands, run, "compensated")
    assert "Ann cut it open" in commands.call("show", run).stdout


def test_a_stuck_action_is_resolved_with_its_result(commands: Commands) -> None:
    run = start(commands, "undeliverable", "undeliverable")
    until(commands, run, "stalled")
    assert "past its pivot" in commands.error("cancel", run)
    assert "say it with --result" in commands.error("resolve", run, "--step", "cli_app.deliver", "--evidence", "x")
    message = commands.error("resolve", run, "--step", "cli_app.deliver", "--evidence", "x", "--result", '{"no": 1}')
    assert 'expected {"number": integer}' in message

    commands.json("resolve", run, "--step", "cli_app.deliver", "--evidence", "by hand", "--result", '{"number": 9}')

    until(commands, run, "completed")
    assert commands.json("show", run, "--payloads")["result"] == {"number": 9}


def test_a_run_that_waits_for_a_retry_says_when_and_is_cancelled(commands: Commands) -> None:
    run = start(commands, "weigh", "weigh")
    waiting = eventually(lambda: str(commands.json("show", run)["waiting"]), lambda text: "waiting for a retry" in text)
    assert re.search(r"waiting for a retry of cli_app\.weigh#1 at \d{4}-.* \(in \d+ min\)", waiting)

    commands.json("cancel", run)

    shown = until(commands, run, "compensated")
    assert shown["run"]["cause"] == "cancelled"


def test_a_queue_that_no_worker_consumes_is_named(commands: Commands) -> None:
    run = start(commands, "engraved", "engrave")

    waiting = eventually(
        lambda: str(commands.json("show", run)["waiting"]),
        # A busy worker may answer the second look only.
        lambda text: "no worker" in text and "workers answer for shelf" in text,
    )

    assert "no worker consumes queue engraving" in waiting
    assert "workers answer for shelf" in waiting
    assert "worker -Q engraving" in waiting


def claimed(commands: Commands, key: str, ware: str, mishap: str = "") -> str:
    given = json.dumps({"name": ware, "grams": 300, "mishap": mishap})
    commands.json("start", "claim", "--id", key, "--input", given)
    return f"claim/{key}"


def waits(commands: Commands, run: str, text: str) -> Any:
    return eventually(
        lambda: json.loads(commands.call("show", run, "--json").stdout), lambda shown: text in str(shown["waiting"])
    )


def test_show_says_what_a_run_waits_for_and_signal_sends_it(commands: Commands) -> None:
    run = claimed(commands, "vase", "vase")
    shown = waits(commands, run, "waiting for signal weight")
    assert re.search(r"waiting for signal weight since .* s: `saga signal claim/vase weight JSON`", str(shown))
    assert (shown["state"], shown["attributes"]["grams"]) == ({"waits for": "its weight"}, 300)
    assert [(lock["name"], lock["held"]) for lock in shown["locks"]] == [("ware:vase", True)]
    assert [mark["name"] for mark in shown["savepoints"]] == ["savepoint#1"]

    assert "nothing weighs less" in commands.error("signal", run, "weight", "--id", "first", "--", "-1")
    assert commands.json("signal", run, "weight", "300", "--id", "a")["answer"] == "300 g"

    shown = waits(commands, run, "waiting for signal verdict")
    assert "waiting for timer#1 at" in str(shown["waiting"])
    assert [(one["id"], one["state"]) for one in shown["signals"]] == [("first", "refused"), ("a", "answered")]
    sent = commands.json("signal", run, "verdict", '{"granted": true}', "--id", "v")
    assert sent == {"run": run, "signal": "verdict", "id": "v", "coordinator_runs": True}
    shown = until(commands, run, "completed")
    assert [(child["run"], child["status"]) for child in shown["children"]] == [("ship/claim/vase#1", "completed")]
    assert shown["locks"] == []
    text = commands.call("show", run).stdout
    assert 'attributes: ware="vase", grams=300, fragile=true' in text
    assert 'state: {"waits for": "its weight"}' in text
    assert re.search(r"^ship/claim/vase#1 +child:ship#1 +completed$", text, re.MULTILINE)
    assert re.search(r"^verdict +v .* read$", text, re.MULTILINE)
    assert "granted" not in text
    assert "granted" in str(commands.json("show", run, "--payloads")["signals"])


def test_show_names_who_holds_a_lock_and_which_child_is_stuck(commands: Commands) -> None:
    holder = claimed(commands, "jug-1", "jug", "glued")
    waits(commands, holder, "waiting for signal weight")
    second = claimed(commands, "jug-2", "jug")
    waits(commands, second, "waiting for lock ware:jug since")
    third = claimed(commands, "jug-3", "jug")

    shown = waits(commands, third, "waiting for lock")
    commands.json("signal", holder, "weight", "3")
    commands.json("signal", holder, "verdict", '{"granted": false}')
    stuck = waits(commands, holder, "which is stalled (compensation_gave_up)")

    assert "held by claim/jug-1; 1 run(s) stand before it" in str(shown["waiting"])
    assert "`saga show ship/claim/jug-1#1` says why" in str(stuck["waiting"])
    assert "-> waiting for its child ship/claim/jug-1#1" in commands.call("show", holder).stdout
    for claim in (holder, second, third):
        commands.json("terminate", claim, "--yes")
    until(commands, "ship/claim/jug-1#1", "terminated")


def test_the_undo_of_a_child_is_shown_as_a_run_of_its_own(commands: Commands) -> None:
    run = claimed(commands, "bowl", "bowl", "declined")
    commands.json("signal", run, "weight", "3")
    commands.json("signal", run, "verdict", '{"granted": false}')

    shown = until(commands, run, "compensated")

    assert [(child["run"], child["undo"], child["status"]) for child in shown["children"]] == [
        ("box_up/claim/bowl#1", False, "completed"),
        ("box_up/claim/bowl#1~undo", True, "compensated"),
    ]
    undo = commands.json("show", "box_up/claim/bowl#1~undo")
    attempts = [(one["step"], one["direction"], one["state"]) for one in undo["timeline"] if "direction" in one]
    assert attempts == [("cli_app.pack#1", "compensation", "succeeded")]
    assert "has ended (compensated)" in commands.error("cancel", "box_up/claim/bowl#1~undo")


def test_a_signal_that_does_not_fit_is_refused_and_nothing_is_sent(commands: Commands) -> None:
    run = claimed(commands, "mug", "mug")
    waits(commands, run, "waiting for signal weight")

    unknown = commands.error("signal", run, "colour", '"red"')
    misfit = commands.error("signal", run, "verdict", '{"granted": "perhaps"}')
    no_json = commands.error("signal", run, "weight", "much")
    nobody = commands.error("signal", "claim/nobody", "weight", "3")
    none = commands.error("signal", start(commands, "deaf"), "weight", "3")

    assert "saga claim version 1 declares no signal 'colour'; it declares: verdict, weight" in unknown
    assert "granted: Input should be a valid boolean" in misfit
    assert 'expected {"granted": boolean}' in misfit
    assert "expected integer" in no_json
    assert "there is no run claim/nobody" in nobody
    assert "declares no signal 'weight'; it declares: none" in none
    assert commands.json("show", run)["signals"] == []
    commands.json("cancel", run)
    until(commands, run, "compensated")
    assert "has ended (compensated)" in commands.error("signal", run, "weight", "3", "--timeout", "1")


def test_list_finds_runs_by_their_attributes(commands: Commands) -> None:
    for number, ware in enumerate(("fork", "fork", "spoon")):
        run = claimed(commands, f"cutlery-{number}", ware)
        waits(commands, run, "lock" if number == 1 else "signal weight")

    def found(*where: str) -> list[str]:
        options = [part for one in where for part in ("--where", one)]
        return [run["address"] for run in commands.json("list", *options)["runs"]]

    assert found("ware=fork") == ["claim/cutlery-1", "claim/cutlery-0"]
    assert found("ware=fork", "grams=300", "fragile=true") == ["claim/cutlery-1", "claim/cutlery-0"]
    assert found("ware=fork", 'grams="300"') == found("ware=knife") == []
    assert commands.json("list", "--where", "ware=spoon", "--status", "completed")["runs"] == []
    assert "expected NAME=VALUE" in commands.error("list", "--where", "ware", exit_code=2)
    for number in range(3):
        commands.json("terminate", f"claim/cutlery-{number}", "--yes")


def test_list_filters_and_pages(commands: Commands) -> None:
    for number in range(3):
        until(commands, start(commands, f"page-{number}"), "completed")

    first = commands.json("list", "--status", "completed", "--limit", "2")
    second = commands.json("list", "--status", "completed", "--limit", "2", "--before", first["next"])

    assert [run["address"] for run in first["runs"]] == ["ship/page-2", "ship/page-1"]
    assert second["runs"][0]["address"] == "ship/page-0"
    assert {run["status"] for run in first["runs"]} == {"completed"}
    assert first["coordinators"] == 1
    assert commands.json("list", "--saga", "none")["runs"] == []
    text = commands.call("list", "--limit", "1").stdout
    assert re.search(r"^ship/page-2 +completed ", text, re.MULTILINE)


def test_usage_errors_are_documents_too(commands: Commands) -> None:
    document = commands.json("list", "--limit", "0", exit_code=2)

    assert document["error"]["type"] == "UsageError"
    assert commands.json("nonsense", exit_code=2)["error"]["message"].startswith("No such command")


def test_reap_finds_nothing_to_do_in_a_healthy_fleet(commands: Commands) -> None:
    found = commands.json("reap", "--once", "--dry-run")["found"]

    assert found["lost_claims"] == []
    assert found["dead_coordinators"] == []
    assert found["coordinators_living"] == 1
    assert "say --once" in commands.error("reap", exit_code=2)


def test_the_doctor_finds_these_settings_healthy_and_counts_the_running_workers(commands: Commands) -> None:
    # In a process of its own: the steps of other tests' modules are declared in this one.
    conf = commands.app.conf
    examined = json.loads(run("doctor", "--json", env=environment(conf.saga_database_url, conf.broker_url)).stdout)

    assert [one["code"] for one in examined["refused"]] == refused_for_its_role(conf.saga_database_url)
    assert [one["code"] for one in examined["advised"]] == ["D14"], "its workers serve steps only"
    assert examined["not_checked"] == {}
    assert examined["connections"]["arithmetic"][1] == "2 worker children x 1 = 2"


def test_chaos_refuses_what_it_did_not_start(commands: Commands) -> None:
    for part in ("worker", "coordinator", "broker", "database"):
        assert "--yes-i-mean-it" in commands.error("chaos", "kill", part)


def test_chaos_kills_no_group_that_others_would_die_with(commands: Commands) -> None:
    message = commands.error("chaos", "kill", "worker", "--pid", str(os.getpid()), "--yes-i-mean-it")

    assert "others would die with it" in message or "another" in message
