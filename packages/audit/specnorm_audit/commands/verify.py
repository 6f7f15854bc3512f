"""The command ``verify``."""

from __future__ import annotations

from pathlib import Path

import click

from specnorm_audit.certifying import verify_file
from specnorm_audit.commands import EXIT_CODES, GATE_FAILED, OK, TROUBLE, print_text
from specnorm_audit.commands.reporting import LIMIT


@click.command("verify", epilog=EXIT_CODES)
@click.argument("certificate", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path())
@LIMIT
def command(certificate: Path, model: str, max_bytes: int) -> int:
    """Prove what the CERTIFICATE claims about MODEL.

    Nothing is searched for: the certificate's numbers are put into the proofs, as 'python -m specnorm_check' does. The
    last line names arrays that may be layers and that no claim is about.
    """
    are_proven = True
    for verdict in verify_file(certificate, model, max_bytes):
        if not isinstance(verdict, str):
            are_proven &= not verdict.reason
        if not print_text(f"{verdict}\n"):
            return TROUBLE
    return OK if are_proven else GATE_FAILED
