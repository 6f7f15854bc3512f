"""The command ``backends``."""

from __future__ import annotations

import click

from specnorm.proof import backends, visible
from specnorm_audit.commands import OK, TROUBLE, print_text
from specnorm_audit.settings import ARRAY_API
from specnorm_audit.streams import complain


@click.command("backends")
def command() -> int:
    """List the array libraries, and what is missing."""
    listing = backends.listing()
    width = max((len(row.name) for row in listing), default=0)
    lines = []
    for row in listing:
        state = row.problem or f"version {row.version}; devices: {', '.join(row.devices) or 'none'}"
        if row.name == ARRAY_API and row.problem is None:
            state = "arrays of any other library of the array API standard, in Python"
        lines.append(visible(f"{row.name:<{width}}  {state}  [{row.distribution}]") + "\n")
    if not listing:
        complain("no array library is registered. Reinstall specnorm-bounds.")
    return OK if print_text("".join(lines)) and listing else TROUBLE
