"""The tutorial's table, made anew with the real packages; run by ``nox -s zoo``."""

from __future__ import annotations

import importlib.util

import pytest
from helpers import DOCS

PAGE = DOCS / "tutorials" / "one-lipschitz.md"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_prints_the_table_of_its_page() -> None:
    """Verdicts to the letter, numbers to 2 %: kernels come from iterations in float32, inputs from a search."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("one_lipschitz", DOCS / "examples" / "one_lipschitz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.rows()
    _, head, rest = PAGE.read_text(encoding="utf-8").partition(made[0])
    assert head, "the page has no table with the columns that the script prints"
    published = (head + rest).split("\n\n")[0].splitlines()
    assert len(made) == len(published) > 8
    for new, old in zip(map(cells, made[2:]), map(cells, published[2:]), strict=True):
        assert (new[0], new[3]) == (old[0], old[3])
        if old[1].startswith("no rule"):
            assert new[1] == old[1]
        else:
            assert float(new[1]) == pytest.approx(float(old[1]), rel=0.02)
        assert float(new[2]) == pytest.approx(float(old[2]), rel=0.02)
