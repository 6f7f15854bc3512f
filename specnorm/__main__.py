"""``python -m specnorm`` runs the command line, which a package above the core defines."""

from __future__ import annotations

import sys

import specnorm.above as above


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        command = above.main
    except ModuleNotFoundError as error:
        sys.exit(f"specnorm: {error}")
    command()


if __name__ == "__main__":
    main()
