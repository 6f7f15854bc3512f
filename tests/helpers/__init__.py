"""What tests share: the oracle, kernels and layers, array libraries, checks. No test is kept here."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
