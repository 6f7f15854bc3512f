"""What the command line says of itself: help with groups of options and examples, and completion in shells."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

ABOUT = """Spectral norms of convolution layers: bounded, computed and proved.

The spectral norm of a layer is the largest factor by which it can stretch an input: its Lipschitz constant. 'audit'
encloses the norm of every layer of a model file between two proven numbers; 'certify' proves how far a classifier's
labels stay.
"""

EXAMPLES = """\b
Examples:
  specnorm audit resnet20.safetensors
      a table, one row a layer; lower and upper are proven
  specnorm audit resnet20.safetensors --input-shape 32
      of the layers at 32 x 32 pixels
  specnorm audit resnet20.safetensors --layers '*conv1*' --format json
      some layers, every digit
  specnorm audit resnet20.safetensors --fail-above 12 --output report.txt
      a check for continuous integration: exit code 1 unless proven
"""

EXIT_CODES = """\b
Exit codes:
  0    every layer was measured, and the gates passed if there were any
  1    a gate failed (--fail-..., --claim), whatever else happened, or verify did not prove
  2    wrong usage, a file that cannot be read or written, a layer without bounds, or a gate that is not decided
  130  interrupted
"""

EPILOG = f"{EXAMPLES}\n\n{EXIT_CODES}"

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Which layers": ("--layers", "--input-shape", "--geometry", "--layout", "--padding-mode"),
    "What is computed": (
        "--input-range",
        "--radius",
        "--centre",
        "--execution",
        "--methods",
        "--all",
        "--rtol",
        "--budget",
        "--backend",
        "--device",
        "--jobs",
        "--max-bytes",
    ),
    "What comes out": (
        "--format",
        "--output",
        "--plot",
        "--certificate",
        "--fail-above",
        "--fail-above-network",
        "--fail-below",
        "--claim",
    ),
}
"""Headings of the help and their options, in this order. Options without a place come last."""

SHELLS = ("bash", "zsh", "fish")


def grouped() -> type[click.Command]:
    """Class of a command whose help shows its options under the headings of `GROUPS`."""
    import click

    class Grouped(click.Command):
        """A command with groups of options."""

        def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            """Write each group under its heading."""
            options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
            rest = tuple(p.opts[-1] for p in options if not any(p.opts[-1] in names for names in GROUPS.values()))
            rows = {p.opts[-1]: row for p in options if (row := p.get_help_record(ctx))}
            for heading, names in {**GROUPS, "Other options": rest}.items():
                if found := [rows[name] for name in names if name in rows]:
                    with formatter.section(heading):
                        formatter.write_dl(found)

    return Grouped


def auditing() -> type[click.Group]:
    """Class of the application: a file in the place of a command is audited."""
    import click

    class Auditing(click.Group):
        """Commands, of which ``audit`` need not be said."""

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            """As `click.Group`, with ``audit`` put before what is a file and no command."""
            name = args[0] if args else ""
            if name and name not in self.commands:
                if Path(name).exists():
                    args = ["audit", *args]
                elif "." in name or "/" in name:
                    raise click.UsageError(f"{name!r} is no file, and no command.", ctx)
            return super().resolve_command(ctx, args)

    return Auditing


def add_completion(application: click.Group) -> None:
    """Add the command that prints a shell's completion script.

    Parameters
    ----------
    application : click.Group
        Whose commands and options are completed.
    """
    import click

    @application.command("completion")
    @click.argument("shell", type=click.Choice(SHELLS))
    def completion(shell: str) -> None:
        """Print the script that completes commands, options and file names in SHELL.

        \b
        bash: eval "$(specnorm completion bash)"      in ~/.bashrc
        zsh:  eval "$(specnorm completion zsh)"       in ~/.zshrc, after compinit
        fish: specnorm completion fish | source       in ~/.config/fish/config.fish
        """
        from click.shell_completion import get_completion_class

        kind = get_completion_class(shell)
        assert kind is not None
        sys.stdout.write(kind(application, {}, "specnorm", "_SPECNORM_COMPLETE").source() + "\n")
