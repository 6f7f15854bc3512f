"""Programs that measure, and write the tables and figures of `docs/benchmarks`."""

import sys
from pathlib import Path

# Published networks and their weights lie with the tests.
ROOT = Path(__file__).parents[1]
sys.path += map(str, (ROOT / "tests", ROOT / "packages" / "networks" / "tests"))
