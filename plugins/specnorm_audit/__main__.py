"""The command ``specnorm``: says what to install where its own dependencies are missing, else hands over to `cli`."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from typing import Any, NoReturn

from specnorm.proof import install
from specnorm_audit.output import complain, complete

_NEEDED = ("click", "jinja2", "safetensors")


def main() -> None:
    """Run the command line and exit with its code; a signal ends its processes and removes its temporary files."""
    complete()
    _answer(_unwinding)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        complain(f"the command line needs {', '.join(missing)}: {install('cli')}")
        sys.exit(2)
    from specnorm_audit.cli import run

    sys.exit(run())


def _answer(how: Any) -> None:
    """Handle each signal so, unless the caller has it ignored (nohup)."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, how)


def _unwinding(number: int, _: object) -> NoReturn:
    _answer(signal.SIG_IGN)  # it is ending already, within a second
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
