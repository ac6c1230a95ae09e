"""How commands are found and called, and how their errors are told. It knows no command before it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from saga.cli.output import Output

if TYPE_CHECKING:
    from saga.cli.application import Application

#: How an invocation ends.
EXIT_REFUSED = 1
EXIT_USAGE = 2

_JSON = "--json"


class Invocation:
    """What a command is handed: the application, loaded at first use, and where to print."""

    def __init__(self, chosen: Any, named: str | None, output: Output) -> None:
        self._chosen = chosen
        self._application: Application | None = None
        self.named = named  #: what stands behind -A; None where an application object was handed in
        self.output = output

    @property
    def application(self) -> Application:
        """The application, its definitions checked.

        Raises:
            ConfigurationError: there is none, it cannot be imported, or `install` was not called on it.
            DefinitionError: a definition cannot work.
        """
        if self._application is None:
            from saga.cli.application import Application

            self._application = Application.load(self._chosen, self.named)
        return self._application

    def close(self) -> None:
        """Let go of what was opened."""
        if self._application is not None:
            self._application.close()


class SagaGroup(click.Group):
    """A group of commands, each imported when it is called; an error is one line, or one JSON document."""

    def __init__(self, name: str, places: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of their table."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return it."""
        place = self._places.get(cmd_name)
        if place is None:
            return None
        found: click.Command = getattr(import_module(place), f"{cmd_name}_command")
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether JSON is wanted before anything can go wrong."""
        ctx.meta["saga.json"] = _JSON in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and tell what it raises."""
        output = Output(json=bool(ctx.meta.get("saga.json")))
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help; older click has no such class
                raise
            where = error.ctx.command_path if error.ctx is not None else ctx.command_path
            hint = f"see `{where} --help`"
            output.error("UsageError", f"{error.format_message().rstrip('.')}; {hint}")
            sys.exit(EXIT_USAGE)
        except click.ClickException as error:
            output.error(type(error).__name__, error.format_message())
            sys.exit(EXIT_REFUSED)
        except (click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            message = told(error)
            if message is None:
                raise
            output.error(type(error).__name__, message)
            sys.exit(EXIT_REFUSED)


def told(error: Exception) -> str | None:
    """Return what to tell of an error, or None for a bug of ours, which keeps its traceback."""
    import psycopg
    from kombu.exceptions import OperationalError as BrokerError
    from sqlalchemy.exc import OperationalError

    from saga.core.errors import SagaError

    if isinstance(error, SagaError):
        return str(error)
    if isinstance(error, psycopg.Error):
        return f"Postgres refused or did not answer: {_first_line(error)}"
    if isinstance(error, OperationalError):
        return f"Postgres refused or did not answer: {_first_line(error.orig or error)}"
    if isinstance(error, BrokerError):
        return f"the broker did not answer: {_first_line(error)}"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


app_option = click.Option(
    ["-A", "--app", "app"],
    metavar="APP",
    help="The Celery application, as in `celery -A tasks`. Not needed behind `celery -A tasks saga`.",
)


@click.pass_context
def pass_to_commands(ctx: click.Context, app: str | None) -> None:
    """Hand the application and the output on to the command."""
    output = Output(json=bool(ctx.meta.get("saga.json")))
    outer = ctx.find_root()
    named = app or (outer.params.get("app") if outer is not ctx else None)
    given = getattr(ctx.obj, "app", None)  # Celery's own context, when this runs as its sub-command
    ctx.obj = Invocation(app or given, named if isinstance(named, str) else None, output)


def command(name: str, *, options: Sequence[click.Parameter] = (), help: str) -> Callable[..., click.Command]:  # noqa: A002
    """Make a command of a function that takes (invocation, **options); `--json` is added to its options."""

    def declare(function: Callable[..., None]) -> click.Command:
        def call(**values: Any) -> None:
            values.pop("json")
            invocation = click.get_current_context().find_object(Invocation)
            assert invocation is not None
            try:
                function(invocation, **values)
            finally:
                invocation.close()

        as_json = click.Option([_JSON, "json"], is_flag=True, help="Print one JSON document instead of text.")
        return click.Command(name, callback=call, params=[*options, as_json], help=help)

    return declare


def argument(name: str, **attributes: Any) -> click.Argument:
    """Describe an argument of a command."""
    return click.Argument([name], **attributes)


def option(*names: str, **attributes: Any) -> click.Option:
    """Describe an option of a command."""
    return click.Option(list(names), **attributes)
