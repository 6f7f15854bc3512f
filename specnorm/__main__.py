"""``python -m specnorm`` runs the command line, which another package registers as the function ``main``."""

from __future__ import annotations

import sys

from specnorm.backends.registry import function


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        command = function("main")
    except ModuleNotFoundError as error:
        sys.exit(f"specnorm: {error}")
    command()


if __name__ == "__main__":
    main()
