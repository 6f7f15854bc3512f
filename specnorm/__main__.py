"""``python -m specnorm`` runs the command line, which another package registers as the function ``main``."""

from __future__ import annotations

import sys

from specnorm.backends.registry import public_name


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        command = public_name("specnorm.main")
    except ModuleNotFoundError as error:
        sys.exit(f"specnorm: {error}")
    command()


if __name__ == "__main__":
    main()
