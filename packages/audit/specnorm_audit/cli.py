"""The command line: the commands, messages, exit codes."""

from __future__ import annotations

import difflib
import io
import json
import sys
import tomllib
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from specnorm.errors import SpecnormError
from specnorm_audit.commands import EXIT_CODES, INTERRUPTED, OK, TROUBLE, print_text
from specnorm_audit.streams import complain, in_options, write

COMMANDS = {
    "accuracy": "Prove within which distance the label of each sample of DATA does not change.",
    "audit": "Bound the norm of every convolution and linear layer of MODEL.",
    "backends": "List the array libraries, and what is missing.",
    "verify": "Prove what the CERTIFICATE claims about MODEL.",
}
"""Commands by name, and what the help says of each without importing it. Each is in a module of `commands`."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code; None: with the arguments of the process."""
    text = io.StringIO()
    code: Any = TROUBLE
    try:
        code = application.main(
            args=arguments, prog_name="specnorm", standalone_mode=False, default_map={"audit": _defaults()}
        )
    except click.ClickException as error:
        error.show(text)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as error:
        if error.code == 1:  # click exits with 1 if nobody reads its output any more
            return OK
        raise  # a signal handler's exit
    except OSError as error:  # click prints its help itself
        complain(f"the help cannot be written: {error}")
    except SpecnormError as error:
        complain(in_options(str(error), arguments or sys.argv))
    except Exception:  # Python's own exit code for a crash is 1, which here says that a gate failed
        traceback.print_exc(file=text)
    write(sys.stderr, text.getvalue())
    is_flushed = print_text("")
    if isinstance(code, int) and code != OK:
        return code
    return OK if is_flushed else TROUBLE


def _defaults() -> dict[str, Any]:
    """Return the options that the table ``[tool.specnorm]`` of pyproject.toml in the current folder states.

    Raises
    ------
    ClickException
        If the file is no TOML, or names an option that the command ``audit`` does not have.
    """
    path = Path("pyproject.toml")
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    if b"tool.specnorm" not in content:
        return {}
    try:
        table = tomllib.loads(content.decode())["tool"]["specnorm"]
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{path}: [tool.specnorm] cannot be read: {error}.") from error
    command: click.Command = import_module("specnorm_audit.commands.audit").command
    named = {max(option.opts, key=len)[2:]: option for option in command.params if isinstance(option, click.Option)}
    unknown = [name for name in table if name not in named]
    if unknown:
        what = f"{path}: [tool.specnorm] has {unknown[0]!r}, which is no option of audit."
        raise click.ClickException(what + _meant(unknown[0], named))
    return {str(named[name].name): _as_typed(value, named[name].multiple) for name, value in table.items()}


def _meant(word: str, known: Iterable[str]) -> str:
    """Ask whether the known word that is nearest to another one was meant; empty: none is near."""
    near = difflib.get_close_matches(word, known, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _as_typed(value: Any, is_repeated: bool) -> Any:
    """Return a value of TOML as options read it: as text, tables as JSON, and a list for an option that is repeated."""
    if isinstance(value, list):
        return [_as_typed(entry, False) for entry in value]
    if isinstance(value, bool):
        return value
    text = json.dumps(value, default=str) if isinstance(value, dict) else str(value)
    return [text] if is_repeated else text


class _Commands(click.Group):
    """Commands that are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None if there is none."""
        if cmd_name not in COMMANDS:
            if cmd_name == "gate":
                raise click.UsageError("A gate is an option: 'specnorm audit MODEL --fail-above L'.", ctx)
            raise click.UsageError(f"No such command {cmd_name!r}.{_meant(cmd_name, COMMANDS)}", ctx)
        command: click.Command = import_module(f"specnorm_audit.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the help says of each command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, epilog=EXIT_CODES
)
@click.version_option(package_name="specnorm-bounds", prog_name="specnorm")
def application() -> None:
    """Spectral norms of convolution layers: bounded, computed and proved.

    The spectral norm of a layer is the largest factor by which it can stretch an input: its Lipschitz constant. 'audit'
    encloses the norm of every layer of a model file between two proven numbers; 'accuracy' proves within which distance
    of each sample a classifier's label stays the same.
    """
