"""Programs that measure, and write the tables and figures of `docs/benchmarks`."""

import sys
from pathlib import Path

# Weights of published networks lie with the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
