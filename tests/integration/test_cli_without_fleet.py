"""The commands where something is missing: a coordinator, the tables, a server, the application itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg
import pytest

from saga.cli import embedded
from saga.engine.store.membership import Membership
from tests.integration import cli_app
from tests.integration.cli_runs import (
    APP,
    ROOT,
    Commands,
    environment,
    eventually,
    process,
    refused_for_its_role,
    run,
    use_servers,
)

WARES = json.dumps({"name": "cup", "grams": 300})


@pytest.fixture
def commands(database: embedded.Database, broker_url: str) -> Commands:
    """The commands on an application that nobody serves."""
    return on(database.url, broker_url)


def on(database_url: str | None, broker_url: str | None) -> Commands:
    """The commands on other servers."""
    use_servers(database_url, broker_url)
    return Commands(cli_app.app)


def test_without_a_coordinator_a_start_is_accepted_and_says_what_it_waits_for(commands: Commands) -> None:
    started = commands.call("start", "ship", "--id", "1", "--input", WARES)

    assert started.exit_code == 0
    assert "no coordinator is running" in started.stderr
    shown = commands.json("show", "ship/1")
    assert shown["run"]["status"] == "accepted"
    assert shown["waiting"][0].startswith("no coordinator is running: start one")
    assert "1 arrival(s) wait for a turn" in shown["waiting"][1]
    assert "RunStarted" in commands.call("show", "ship/1").stdout
    assert "no coordinator" in commands.error("retry", "ship/1")


def test_a_start_that_waits_can_be_cancelled(commands: Commands) -> None:
    commands.json("start", "ship", "--id", "1", "--input", WARES)

    assert commands.json("cancel", "ship/1")["coordinator_runs"] is False


def test_list_says_that_starts_wait(commands: Commands) -> None:
    commands.json("start", "ship", "--id", "1", "--input", WARES)

    listed = commands.call("list")

    assert "1 start(s) wait for a coordinator" in listed.stderr
    assert "no coordinator is running" in listed.stderr
    assert commands.json("list") == {"runs": [], "next": None, "starts_waiting": 1, "coordinators": 0}


def test_missing_tables_are_named_with_the_command_that_makes_them(
    empty_database: embedded.Database, broker_url: str
) -> None:
    commands = on(empty_database.url, broker_url)

    for arguments in (
        ["list"],
        ["show", "ship/1"],
        ["start", "ship", "--id", "1", "--input", WARES],
        ["reap", "--once"],
    ):
        message = commands.error(*arguments)
        assert "the tables are missing" in message
        assert "saga upgrade" in message


def test_newer_tables_are_refused(commands: Commands, database: embedded.Database) -> None:
    with psycopg.connect(database.owner_url) as owner:
        owner.execute("UPDATE saga.alembic_version SET version_num = '9999'")

    assert "newer than this code" in commands.error("list")


def test_no_database_says_what_to_set(broker_url: str) -> None:
    assert "no database is set: pass install(app, database=" in on(None, broker_url).error("list")


def test_an_unreachable_database_is_named_without_its_password(broker_url: str) -> None:
    message = on("postgresql://app:s3cret@127.0.0.1:1/shop", broker_url).error("list")

    assert "cannot reach the database" in message
    assert "127.0.0.1:1" in message
    assert "s3cret" not in message


def test_a_silent_broker_breaks_neither_show_nor_doctor(commands: Commands, database: embedded.Database) -> None:
    silent = on(database.url, "redis://127.0.0.1:1/0")
    silent.json("start", "ship", "--id", "1", "--input", WARES)

    assert silent.json("show", "ship/1")["run"]["status"] == "accepted"
    codes = {one["code"] for one in silent.json("doctor", exit_code=1)["refused"]}
    assert codes == {"D21", *refused_for_its_role(database.url)}


def test_the_application_must_be_named_and_found() -> None:
    env = environment(None, None)

    nameless = run("list", env=env, app=None)
    unknown = run("list", "--json", env=env, app="nowhere.at_all")

    assert nameless.returncode == 1
    assert "no application: say which with -A" in nameless.stderr
    assert unknown.returncode != 0
    assert "nowhere" in unknown.stderr


def test_the_console_script_names_a_module_that_is_not_there() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "saga.cli", "-A", "nowhere.at_all", "list", "--json"],
        cwd=ROOT,
        env=environment(None, None),
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 1
    assert "there is no module 'nowhere'" in json.loads(found.stdout)["error"]["message"]


def test_the_console_script_and_celerys_sub_command_are_the_same(
    commands: Commands, database: embedded.Database
) -> None:
    env = environment(database.url, "redis://127.0.0.1:1/0")

    by_celery = run("list", "--json", env=env)
    by_script = subprocess.run(
        [sys.executable, "-m", "saga.cli", "-A", APP, "list", "--json"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert by_celery.returncode == 0, by_celery.stderr
    assert json.loads(by_celery.stdout) == json.loads(by_script.stdout)


def test_a_coordinator_refuses_without_database_tables_or_broker(
    empty_database: embedded.Database, broker_url: str
) -> None:
    for database_url, broker, said in (
        (None, broker_url, "no database is set"),
        (empty_database.url, broker_url, "the tables are missing"),
        (empty_database.url, None, "no broker is set"),
    ):
        ended = run("coordinator", env=environment(database_url, broker))
        assert ended.returncode == 1
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_coordinator_hands_over_on_sigterm(
    commands: Commands, database: embedded.Database, broker_url: str, tmp_path: Path
) -> None:
    env = environment(database.url, broker_url)
    with process("celery", "-A", APP, "saga", "coordinator", env=env, log=tmp_path / "log") as started:
        eventually(lambda: commands.json("list")["coordinators"], lambda living: living == 1)

        started.send_signal(signal.SIGTERM)

        assert started.wait(20) == 0
    assert commands.json("list")["coordinators"] == 0


def test_upgrade_makes_the_tables_and_grants(empty_database: embedded.Database, servers: embedded.Servers) -> None:
    commands = on(empty_database.url, None)
    role = servers.application_role

    granted = ["--grant-to", role] if role else []
    done = commands.json("upgrade", "--database", empty_database.owner_url, *granted)
    again = commands.call("upgrade", "--database", empty_database.owner_url, *granted)

    assert done == {"schema": "saga", "revision": "0001", "granted_to": role}
    assert again.exit_code == 0
    assert commands.json("list")["runs"] == []


def test_upgrade_by_a_role_that_may_not_is_refused_and_says_whom_to_ask(
    empty_database: embedded.Database, servers: embedded.Servers
) -> None:
    if servers.application_role is None:
        pytest.skip("one role is owner and application here")

    message = on(empty_database.url, None).error("upgrade")

    assert "nothing was changed" in message
    assert "--grant-to" in message


def test_upgrade_prints_sql_without_a_database() -> None:
    commands = on(None, None)

    plain = commands.call("upgrade", "--sql", "--grant-to", "shop_app").stdout
    document = commands.json("upgrade", "--sql")

    assert 'CREATE TABLE "saga".event' in plain
    assert 'TO "shop_app"' in plain
    assert "commit_turns" in document["sql"]


def test_a_dead_coordinator_is_seen_and_buried_once(commands: Commands, database: embedded.Database) -> None:
    dead = uuid.uuid4()
    with psycopg.connect(database.url, autocommit=True) as connection:
        membership = Membership("saga")
        membership.register(connection, dead, "build", 0.0)
        membership.acquire(connection, dead, 64, 0)

    looked = commands.json("reap", "--once", "--dry-run")["found"]["dead_coordinators"]
    still = commands.json("reap", "--dry-run")["found"]["dead_coordinators"]
    reaped = commands.json("reap", "--once")["reaped"]

    assert looked == still
    assert [(one["id"], one["shards"]) for one in looked] == [(str(dead), 64)]
    assert reaped == {"claims": 0, "coordinators": 1, "messages": 0}
    assert commands.json("reap", "--dry-run")["found"]["dead_coordinators"] == []


def test_a_lost_claim_is_seen(commands: Commands, database: embedded.Database) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        make_claim(owner, lease_seconds=-1)

    found = commands.json("reap", "--once", "--dry-run")["found"]["lost_claims"]
    reaped = commands.json("reap", "--once")["reaped"]

    assert [(one["run"], one["task"], one["attempt"]) for one in found] == [("ship/9", "cli_app.pack", 1)]
    assert reaped["claims"] == 1


def test_messages_that_the_broker_lost_are_seen_and_published_again(
    commands: Commands, database: embedded.Database
) -> None:
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        make_claim(owner, lease_seconds=None)

    found = commands.json("reap", "--once", "--dry-run")["found"]["lost_messages"]
    reaped = commands.json("reap", "--once")["reaped"]

    assert found == [{"queue": "shelf", "unclaimed": 1, "in_broker": 0, "missing": 1}]
    assert reaped["messages"] == 1
    assert commands.json("reap", "--dry-run")["found"]["lost_messages"] == []


def make_claim(owner: psycopg.Connection, *, lease_seconds: float | None) -> None:
    """Write a run with one old task, claimed with this lease, or not claimed."""
    run_id, token, claimant = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    owner.execute(
        "INSERT INTO saga.run (id, saga, key, shard, version, build, status, head, digest, input_digest, input,"
        " started_at) VALUES (%s, 'ship', '9', 1, 1, 'b', 'running', 1, %s, %s, '{}', now())",
        (run_id, bytes(32), bytes(32)),
    )
    owner.execute(
        "INSERT INTO saga.task (token, attempt, run, shard, name, queue, input, lease_seconds, created_at,"
        " claimed_by, claimed_at, lease_until) SELECT %s, 1, %s, 1, 'cli_app.pack', 'shelf', '{}', 10,"
        " now() - interval '1 minute', claimant, claimed, claimed + make_interval(secs => %s)"
        " FROM (SELECT %s::uuid, CASE WHEN %s THEN now() END) AS c(claimant, claimed)",
        (token, run_id, lease_seconds, claimant if lease_seconds is not None else None, lease_seconds is not None),
    )


def test_the_doctor_refuses_what_this_postgres_is_told(
    commands: Commands, database: embedded.Database, servers: embedded.Servers, broker_url: str
) -> None:
    if servers.application_role is None:
        pytest.skip("one role is owner and application here")
    with psycopg.connect(servers.superuser_url, autocommit=True) as admin:
        for setting in ("synchronous_commit = off", "default_transaction_isolation = 'serializable'"):
            admin.execute(f"ALTER ROLE {servers.application_role} IN DATABASE {database.name} SET {setting}")

    codes = [one["code"] for one in commands.json("doctor", exit_code=1)["refused"]]
    owner = [one["code"] for one in on(database.owner_url, broker_url).json("doctor", exit_code=1)["refused"]]
    crowded = on(database.owner_url, broker_url).json("doctor", "--workers", "1000", exit_code=1)["refused"]

    assert codes == ["D34", "D36"]
    assert owner == ["D39"]
    assert "Postgres has" in crowded[-1]["found"]


def test_the_doctor_refuses_missing_tables_and_superusers(
    empty_database: embedded.Database, servers: embedded.Servers, broker_url: str
) -> None:
    if servers.application_role is None:
        pytest.skip("one role is owner and application here")
    url = servers.superuser_url.rpartition("/")[0] + f"/{empty_database.name}"

    result = on(url, broker_url).call("doctor")

    assert result.exit_code == 1
    assert "D37  Postgres: the tables are missing" in result.stdout
    assert "D38  Postgres: the role postgres is a superuser" in result.stdout
    assert "connections" in result.stdout


def test_a_process_group_is_killed_when_that_is_meant(commands: Commands) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)

    killed = commands.json("chaos", "kill", "worker", "--pid", str(victim.pid), "--yes-i-mean-it")

    assert victim.wait(10) == -signal.SIGKILL
    assert killed["pid"] == victim.pid
    assert killed["held"] == {"claims": 0, "unclaimed_tasks": 0, "arrivals": 0}


def test_the_sessions_of_the_database_are_cut_off_when_that_is_meant(
    commands: Commands, database: embedded.Database
) -> None:
    with psycopg.connect(database.url, autocommit=True) as other:
        killed = commands.json("chaos", "kill", "database", "--yes-i-mean-it")

        assert killed["sessions"] >= 1
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")


def test_a_broker_that_is_not_ours_is_emptied_only_when_that_is_meant(commands: Commands) -> None:
    assert "refused to kill the broker" in commands.error("chaos", "kill", "broker")

    killed = commands.json("chaos", "kill", "broker", "--yes-i-mean-it")

    assert killed["messages"] == 0
