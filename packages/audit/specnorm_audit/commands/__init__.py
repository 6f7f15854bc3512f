"""The commands of the command line, one in each module as `command`; here are their exit codes, and how they print."""

from __future__ import annotations

import sys

from specnorm_audit.streams import complain, write

OK = 0
GATE_FAILED = 1
TROUBLE = 2
INTERRUPTED = 130

EXIT_CODES = """\b
Exit codes:
  0    every layer was measured, and the gates passed if there were any
  1    a gate failed (--fail-...), whatever else happened, or verify did not prove
  2    wrong usage, a file that cannot be read or written, a layer without bounds or, in a certificate, without a
       claim, or a gate that is not decided
  130  interrupted (143, 129: by SIGTERM, SIGHUP)
"""


def print_text(text: str) -> bool:
    """Write to stdout, and flush it; False, with a message, if that fails."""
    failure = write(sys.stdout, text)
    if failure is not None:
        complain(f"standard output cannot be written: {failure}.")
    return failure is None
