"""The command ``specnorm``: says what to install where its own dependencies are missing, else hands over to `cli`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from specnorm.proof import install
from specnorm_audit import signals
from specnorm_audit.streams import complain, complete

_NEEDED = ("click", "jinja2", "safetensors")


def main() -> None:
    """Run the command line and exit with its code."""
    complete()
    signals.running()
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        complain(f"the command line needs {', '.join(missing)}: {install('cli')}")
        sys.exit(2)
    from specnorm_audit.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
