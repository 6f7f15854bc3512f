"""What has to be right for an answer to be right is counted and printed; what is not counted makes no claim."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest
import specnorm_check
import trusted
from proof.test_claims import made
from proof.test_outward import outward
from specnorm_networks import tools
from test_house import parsed

import specnorm


def test_the_page_says_what_is_trusted() -> None:
    page = trusted.PAGE.read_text(encoding="utf-8")
    assert trusted.replaced(page) == page, "another table: write it by `python tests/trusted.py`"
    with pytest.raises(ValueError, match="no place"):
        trusted.replaced("a page")


@pytest.mark.parametrize("path", [p for name, p in trusted.modules().items() if trusted.proposes(name)], ids=str)
def test_what_is_not_counted_makes_no_claim_and_rounds_nothing_outward(path: Any) -> None:
    assert [*made(parsed(path)), *outward(parsed(path))] == []


@pytest.mark.parametrize(
    ("claim", "given_by", "runs"),
    [
        ("`enclose`", specnorm.enclose, ("certified.symbol.cover", "certified.matrices.norms", "runtime.program")),
        ("`enclose` at a size", specnorm.enclose, ("certified.layer.deflation", "certified.layer.own_matrix")),
        ("`network_bound` (torch)", tools.bound, ("specnorm_networks.certified.parts", "certified.symbol.cover")),
        ("a certificate", specnorm_check.check, ()),
    ],
)
def test_what_gives_a_claim_is_counted(claim: str, given_by: Callable[..., object], runs: tuple[str, ...]) -> None:
    entries, without = trusted.ENTRIES[claim]
    found = trusted.closure(entries, without)
    assert given_by.__module__ in found
    assert {name if name.startswith("specnorm_") else f"specnorm.{name}" for name in runs} <= found


def test_a_certificate_needs_the_checker_alone() -> None:
    needed = trusted.closure(*trusted.ENTRIES["a certificate"])
    assert {module.partition(".")[0] for module in needed} == {"specnorm_check"}


def test_the_count_follows_what_is_imported() -> None:
    source = "if TYPE_CHECKING:\n    import a\nimport b\ndef f():\n    from c import d\n    if x:\n        import e"
    assert list(trusted.imported(ast.parse(source))) == ["b", "c.d", "e"]
    # A name that a package takes from a module of its own leads there, and what it defines itself to the package.
    assert trusted.defining("specnorm_networks.tools.bound") == tools.bound.__module__
    assert trusted.defining("specnorm.enclose") == specnorm.enclose.__module__
    assert trusted.defining("specnorm.methods.METHODS") == "specnorm.methods"
    assert trusted.defining("numpy.float64") == ""
    layer = trusted.closure(("specnorm.methods.enclosure",))
    assert trusted.AT_A_SIZE in layer
    assert trusted.AT_A_SIZE not in trusted.closure(("specnorm.methods.enclosure",), trusted.AT_A_SIZE)
    assert "specnorm.search.branch_and_bound" in layer, "what proposes is followed, though it is not counted"
    assert trusted.proposes("specnorm.search.branch_and_bound")
    assert not trusted.proposes("specnorm.certified.bound")
    assert not trusted.proposes("specnorm_networks.live")


def test_every_row_is_of_modules_that_exist() -> None:
    rows = {trusted.group(name) for name in trusted.modules()}
    assert rows == set(trusted.GROUPS)
