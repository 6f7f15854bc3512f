"""Claims are made by rules alone, which look at what they suppose; what is made of them is rounded outward."""

from __future__ import annotations

import ast
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.assumptions import assumed, assumed_lower
from helpers.libraries import OPS
from helpers.oracle import dense_norm, sigma_star
from test_house import CORE, ROOT, core_files, makes_claims, other_files, parsed

import specnorm
from specnorm.at_size.proofs import components
from specnorm.at_size.proofs.circulant import norm_by_circulant, shortest
from specnorm.at_size.proofs.components import norm_of_groups, norm_of_restriction, norms_of_parts, norms_of_patch
from specnorm.backends import arrays
from specnorm.completion.method import Completion
from specnorm.enclosure.frequency_grid import Grid
from specnorm.geometry.spec import ConvSpec
from specnorm.gram.method import Gram
from specnorm.grid import proof as grid
from specnorm.grid import search as grid_search
from specnorm.grid.proof import LargestBound
from specnorm.proof import proven
from specnorm.proofs import norms
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Upper, Uppers, digest_of, known, of_kernel
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.running.proofs.padding import largest_of_blocks, padded_norm
from specnorm.supremum import proof as cover
from specnorm.supremum.proof import Cover, supremum_on_grid
from specnorm.symbols.proofs.polynomial import Polynomial
from specnorm.tensor_norm.method import TensorNorm
from specnorm.unfoldings.proof import UnfoldingProof

COVER = {
    "_open", "_fathomed", "_largest_threshold", "_note", "_set_open", "_what", "_with_nodes", "_with_domain",
    "_of_map", "_map", "_origin", "_regions", "_domain",
}  # fmt: skip
"""What a cover, a graph and a run keep to themselves."""
MAKERS = {"Upper", "Uppers", "Lower", "Interval", "_by_rule", "_largest", "_interval", "_covering"}
MAKERS |= {"_made", "_Claim", "make_upper", "make_lower", "make_interval"}
MAKES = tuple(name for name in MAKERS if name[0] in "_m")
"""What only the rooms take; the door hands it on."""


# -- who makes claims --------------------------------------------------------------------------------------------------
def made(tree: ast.AST) -> Iterator[str]:
    """A claim constructed, the constructors imported or reached for, a claim written to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in {"Upper", "Lower", "Interval", "Slopes"}:
            yield f"line {node.lineno}: {ast.unparse(node.func)}("
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("specnorm."):
            yield from (f"line {node.lineno}: {x.name}" for x in node.names if x.name in MAKES)
        elif isinstance(node, ast.Attribute) and node.attr in MAKES:
            yield f"line {node.lineno}: {node.attr}"
        elif isinstance(node, ast.Attribute) and node.attr in COVER and name_of(node.value) != "self":
            yield f"line {node.lineno}: {ast.unparse(node)}"


def name_of(node: ast.expr) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


DOOR = CORE / "proof.py"
"""Hands the makers on to the proofs of other packages."""
OUTSIDE = [path for path in (*core_files(), *other_files()) if not makes_claims(path) and path != DOOR]


def test_claims_are_made_in_files_of_proofs_alone() -> None:
    found = {str(path.relative_to(ROOT)): list(made(parsed(path))) for path in OUTSIDE}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        *("Upper(1.0, 'sigma*', 'no rule')", "bound.Lower(1.0, 'sigma*', 'no rule')"),
        "from specnorm.proofs.bound import make_upper", "from specnorm.proofs.bound import Upper, make_lower as make",
        "bound.Upper._by_rule(1.0, 'sigma*', 'no rule')", "Upper._made(1.0, bound.ALL_FREQUENCIES, 'no rule')",
        *("Interval(low, high)", "base.Slopes(low, high, regions)"), "from specnorm.proofs.interval import _interval",
        *("cover._fathomed[:] = True", "cover._largest_threshold = 0.0", "cover._note(index, 1.0)"),
    ],
)  # fmt: skip
def test_the_ban_on_making_claims_can_fail(source: str) -> None:
    assert list(made(ast.parse(source)))


def test_the_ban_lets_claims_be_held() -> None:
    for source in ("from specnorm.proofs.bound import Upper", "x: Upper | None = None", "isinstance(x, Upper)"):
        assert not list(made(ast.parse(source)))


def test_nobody_else_constructs_a_claim() -> None:
    for claim in (Upper, Lower):
        with pytest.raises(TypeError, match="rules"):
            claim(1.0, ALL_FREQUENCIES, "no rule")
        with pytest.raises(TypeError, match="rules"):
            claim(1.0, ALL_FREQUENCIES, "no rule", (), "a digest")
    with pytest.raises((TypeError, ValueError)):
        replace(assumed(2.0), value=1.0)
    with pytest.raises(AttributeError):
        assumed(2.0).value = 1.0  # type: ignore[misc]


METHODS: tuple[Any, ...] = (Gram(), Completion(), Grid(), TensorNorm())
LAYERS: tuple[dict[str, Any], ...] = ({}, {"groups": 2}, {"padding_mode": "reflect", "padding": 1})
AT_6: dict[str, Any] = {"input_shape": 6}
CLAIMED: list[tuple[Any, dict[str, Any]]] = [
    *((method, layer) for method in METHODS for layer in LAYERS),
    # Also where outputs are left out or repeated.
    (Gram(n_iter=3), AT_6),
    (Gram(n_iter=3), AT_6 | {"groups": 2, "stride": 2}),
    (Gram(n_iter=3), AT_6 | {"dilation": 3, "transposed": True}),
    (Gram(n_iter=3), AT_6 | {"padding_mode": "circular", "padding": 0}),
    (Gram(n_iter=3), AT_6 | {"padding_mode": "circular", "padding": 4}),
]


@pytest.mark.parametrize(("method", "layer"), CLAIMED)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_method_answers_with_its_claim(
    method: Any, layer: dict[str, Any], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a kernel out of float32's usual range, beside the number; whether frequencies are left out or not."""
    kernel = 1e10 * np.cos(np.arange(36.0 * channels, dtype=np.float32)).reshape(4, channels, 3, 3)
    spec, wide = ConvSpec.of(kernel.shape, **layer), kernel.astype(np.float64)
    if "input_shape" in layer:
        truth = dense_norm(wide, 6, **{word: x for word, x in layer.items() if word != "input_shape"}).lo
    else:
        truth = sigma_star(wide, groups=spec.groups).lo * math.sqrt(spec.padding_gain_sq)
    for pays in (False, True):
        monkeypatch.setattr(grid_search, "_pays", lambda *_, pays=pays, **__: pays)
        result, ((_, upper),) = proven(kernel, method, **layer)
        assert truth <= upper.value * (1 + 1e-12)
        assert upper.value <= float(result.value)
        assert (upper.what, upper.digest) == (spec, digest_of(kernel))


def test_bounds_of_different_norms_are_not_compared() -> None:
    one, two = assumed(1.0), assumed(2.0)
    assert Upper.least(two, None, one) is one
    assert Lower.greatest(assumed_lower(1.0), assumed_lower(3.0)).value == 3
    with pytest.raises(HypothesisError, match="different"):
        Upper.least(one, assumed(0.5, Circulant((4,), (False,))))
    assert one < two
    assert one <= 1.0
    assert not one > 1.0


# -- rules look at what they suppose -----------------------------------------------------------------------------------
LAYER = ConvSpec.of((4, 2, 3, 3), input_shape=(6, 7), padding_mode="zeros", padding=1, groups=2)
RING = Circulant(shortest(LAYER), (True, False))
ONES: Any = np.ones(1)
KERNEL: Any = np.random.RandomState(0).standard_normal((1, 3, 3, 4)) / 4


def cover_of(threshold: float, blocks: Any = KERNEL, boxes: Any = None, supremum: Upper | None = None) -> Cover:
    """After one round; of KERNEL on the torus unless something else is named."""
    found = Cover(blocks, Boxes.torus((4,)) if boxes is None else boxes, supremum, ops=OPS)
    formed, _ = found.form(Polynomial(blocks, xp=OPS.xp).gram(ops=OPS), np.arange(len(found)), np.zeros(len(found)))
    found.fathom(formed, threshold)
    found.prune()
    return found


def norm_of(boxes: Any) -> Upper:
    """A bound of the torus, by a search of some boxes of it that are said to be enough."""
    return padded_norm(cover_of(100.0, KERNEL, boxes).proven(), ConvSpec.of((3, 3, 4)))


def shorter(axis: int) -> Circulant:
    points = tuple(n - (j == axis) for j, n in enumerate(RING.points))
    return replace(RING, points=points)


GROUP = LAYER.of_group
ONE, TWO = assumed_lower(1.0), assumed(2.0)
REFLECT = ConvSpec.of((4, 2, 3, 3), input_shape=(6, 7), padding_mode="reflect", padding=1, groups=2)
(MIRRORED,) = components.polyphase_components(ConvSpec.of((1, 1, 3), input_shape=9, padding_mode="reflect", padding=1))
(MIRRORED_SHORTER,) = components.polyphase_components(
    ConvSpec.of((1, 1, 3), input_shape=7, padding_mode="reflect", padding=1)
)
(PART,) = components.polyphase_components(LAYER)
DILATED = ConvSpec.of((2, 2, 2), input_shape=3, padding_mode="zeros", padding=1, dilation=2)
PARTS = [sub.spec for sub in components.polyphase_components(DILATED)]
REFUSED: dict[str, Callable[[], object]] = {
    "an open cell": lambda: cover_of(0.1, KERNEL, Boxes.dft((5,), (4,), by_point=True), assumed(100.0)).proven(),
    "a cell left out": lambda: norm_of(Boxes.torus((4,))[:-1]),
    "a circulant one point short": lambda: norm_by_circulant(assumed(1.0, shorter(0)), LAYER),
    "a circulant of padding that is not zero": lambda: norm_by_circulant(assumed(1.0, RING), REFLECT),
    "the supremum for a circulant": lambda: norm_by_circulant(assumed(1.0), LAYER),
    "a circulant for the supremum of a grid": lambda: cover.grid_lemma(1.0, assumed(2.0, RING), np.zeros(1)),
    "the supremum for some of the torus": lambda: supremum_on_grid(assumed(1.0), Boxes.torus((4,))),
    "a group twice as large": lambda: norm_of_groups(LAYER, [assumed(1.0, GROUP), assumed(1.0, LAYER)]),
    "all groups and others": lambda: norm_of_groups(LAYER, [assumed(1.0, GROUP)] * 2, assumed(1.0)),
    "groups that are not bounded everywhere": lambda: norm_of_groups(LAYER, [assumed(1.0, GROUP)], assumed(1.0, RING)),
    "a component left out": lambda: norms_of_parts(
        DILATED, [(assumed_lower(1.0, x), assumed(1.0, x)) for x in PARTS[1:]]
    ),
    "a component's bound of another": lambda: norms_of_parts(
        DILATED, [(assumed_lower(1.0, x), assumed(1.0, LAYER)) for x in PARTS]
    ),
    "a larger layer as a restriction": lambda: norm_of_restriction(PART.restricted(9), PART, assumed_lower(1.0, GROUP)),
    "another layer as a restriction": lambda: norm_of_restriction(PART, PART, assumed_lower(1.0, REFLECT)),
    "a corner that reads padding behind": lambda: norm_of_restriction(
        MIRRORED, MIRRORED_SHORTER, assumed_lower(1.0, MIRRORED_SHORTER.spec.of_group)
    ),
    "several outputs as a patch": lambda: norms_of_patch(
        PART, assumed_lower(1.0, norms.norm_of_stack((2, 2, 2))), assumed(1.0, norms.norm_of_stack((2, 2, 2)))
    ),
    "another matrix as a tap": lambda: cover.norm_of_one_tap(
        KERNEL[..., :1], assumed(1.0, norms.norm_of_stack((1, 3, 2)))
    ),
    "a bound of another symbol on a grid": lambda: known(
        grid._on_grid(partial(grid.symbol_norms_up, KERNEL), ONES, KERNEL, (20,))
    ),
    "no box at all": lambda: Cover(KERNEL, Boxes.torus((4,))[:0], ops=OPS),
    "a point of the grid": lambda: supremum_on_grid(assumed(1.0), Boxes.dft((5,), (4,))[:1]),
    "an upper bound of one kernel for another": lambda: of_kernel(ONE, of_kernel(ONE, TWO, KERNEL, 0)[1], KERNEL, 0),
    "a kernel's bound and one of nobody's": lambda: Upper.least(of_kernel(ONE, TWO, KERNEL, 0)[1], TWO),
    "a block left out": lambda: largest_of_blocks([assumed(1.0)], 2),
    "bounds of two norms as one": lambda: Uppers.joined(
        [Uppers._by_rule(ONES, what, "rule") for what in (ALL_FREQUENCIES, RING)], xp=OPS.xp
    ),
}


def test_enclosures_of_two_kernels_are_not_compared() -> None:
    """Of one shape: 11.6 and 0.1; and a bound of a kernel is not scaled to be one of another."""
    kernel = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3)
    found, small = (specnorm.enclose(k) for k in (kernel, kernel / 100))
    assert found.claim is not None
    assert small.claim is not None
    (lower, upper), other = found.claim, small.claim
    assert float(found.lower) <= lower.value <= upper.value <= float(found.upper)
    assert upper.what == other[1].what == ConvSpec.of(kernel.shape)
    with pytest.raises(HypothesisError, match="different kernels"):
        Upper.least(upper, other[1])
    with pytest.raises(HypothesisError, match="different"):
        Lower.greatest(lower, other[0])
    with pytest.raises(HypothesisError, match="not scaled to another"):
        of_kernel(lower, upper, kernel, -40)


@pytest.mark.parametrize("padding", [{}, {"input_shape": 9, "padding_mode": "zeros", "padding": 1}])
def test_a_kernel_is_known_by_its_bits(padding: dict[str, Any]) -> None:
    """Whatever precision holds them: not one that is off by a rounding."""
    kernel = np.cos(np.arange(24.0, dtype=np.float32)).reshape(4, 2, 3)
    found = [specnorm.enclose(k, **padding).claim for k in (kernel, kernel.astype(np.float64), np.nextafter(kernel, 2))]
    first, same, other = (claims[1].digest for claims in found if claims is not None)
    assert first == same == digest_of(kernel) != other
    assert digest_of(kernel) != digest_of(kernel.reshape(2, 4, 3))


FORMATS = [".3f", ".3e", ".3g", "12.4f", ".0f", ".2%", "f", "g", "010.2f", "n", ".3n", "_.2f", ",.1f", "#.3g", ".3"]
VALUES = [0.0, 0.1, 1 / 3, 2 / 3, 7.3761049, 0.9999999, 1.0, 123456.789, 1e-7, 2.5e300]


@pytest.mark.parametrize("spec", FORMATS)
@pytest.mark.parametrize("value", VALUES)
def test_a_claim_is_formatted_outward(value: float, spec: str) -> None:
    """An upper bound printed to nearest is below the bound half of the time."""
    up, down = format(assumed(value), spec), format(assumed_lower(value), spec)
    hundred = 100 if spec.endswith("%") else 1
    exact = Fraction(value) * hundred
    low, high, nearest = (
        Fraction(text.translate({ord(mark): "" for mark in "%_,"})) for text in (down, up, format(value, spec))
    )
    assert low <= exact <= high
    if "%" not in spec:  # a float's own percentage is rounded twice
        assert nearest in (low, high)


def test_a_format_without_digits_is_that_of_a_float() -> None:
    claim = assumed(0.1)
    assert f"{claim}" == str(claim)
    assert f"{claim:>6}" == "   0.1"
    assert f"{assumed(math.inf):.3f}" == "inf"
    with pytest.raises(ValueError, match="Unknown format code"):
        format(claim, "d")


def test_boxes_do_not_cover_what_somebody_says() -> None:
    """A box of the torus, said to be all of it, would prove a norm of next to nothing."""
    box = Boxes.torus((4,))[:1]
    with pytest.raises(ValueError, match="init=False"):
        replace(box, covers=ALL_FREQUENCIES)
    fields = (box.low, box.high, box.denominators, box.half_degree, box.on_grid, box.frame, box.offset)
    with pytest.raises(TypeError, match="positional arguments"):
        Boxes(*fields, ALL_FREQUENCIES)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="covers"):
        Boxes(*fields, covers=ALL_FREQUENCIES)  # type: ignore[call-arg]
    assert replace(Boxes.torus((4,))).covers is None
    for boxes in (Boxes.torus((4,)), Boxes.dft((9,), (4,))):
        for name in ("low", "high", "half_degree", "frame", "offset"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(boxes, name)[:] = 0
    assert replace(box).covers is box.covers is None


def test_the_matrices_of_a_cover_are_its_own() -> None:
    """Matrices of zeros would fathom every cell."""
    found = Cover(KERNEL, Boxes.torus((4,)), ops=OPS)
    formed, _ = found.form(Polynomial(KERNEL, xp=OPS.xp).gram(ops=OPS), np.arange(len(found)), np.zeros(len(found)))
    with pytest.raises(TypeError, match=r"CentreMatrices: .* by the rules"):
        replace(formed, matrices=0 * formed.matrices)
    with pytest.raises(AttributeError):
        found.what = "sigma*"  # type: ignore[misc]
    assert not found.fathom(formed, 1e-9).any()


def test_the_norm_of_a_matrix_with_nan_is_nan() -> None:
    """It was taken for a zero matrix, whose norm needs no proof."""
    matrices: Any = np.stack([np.eye(2), np.array([[1.0, np.nan], [0, 1]]), np.zeros((2, 2))])
    with np.errstate(invalid="ignore"):
        values = np.asarray(norms.matrix_norm_up(matrices, ops=OPS))
    assert np.isnan(values).tolist() == [False, True, False]


# -- the bounds of fixed cost, and without one of their terms ----------------------------------------------------------
def by_grid(blocks: Any, sizes: tuple[int, ...] = (7,)) -> Upper:
    largest = LargestBound(grid.symbol_norms_up, blocks, sizes, ops=OPS)
    largest.visit(np.arange(len(largest.frequencies)))
    (claim,) = grid.norms_by_grid(known(largest.result()[2]), xp=OPS.xp).claims(ops=OPS)
    return claim


def by_unfolding(blocks: Any) -> Upper:
    rows = np.concatenate(np.moveaxis(blocks[0], -1, 0))
    _, near = arrays.top_eigenpair((rows.T @ rows)[None], xp=OPS.xp)
    (found,) = UnfoldingProof(blocks, (0, 2), ops=OPS).bounds(near)
    return found


# -- the chain ---------------------------------------------------------------------------------------------------------
def test_an_enclosure_explains_itself() -> None:
    kernel = np.random.RandomState(0).standard_normal((6, 6, 3, 3)).astype(np.float32) * 100
    found = specnorm.enclose(kernel, 40, padding_mode="zeros", padding=1)
    lines = found.explain().splitlines()
    assert lines[0].startswith(f"{float(found.lower):.3f}"[:3])
    assert len(lines) < 24
    uppers = [float(line.split("<= ")[1].split(":")[0]) for line in lines[1:] if "<=" in line]
    assert uppers[0] == pytest.approx(float(found.upper), rel=1e-5)
    assert [line for line in lines if line.lstrip().startswith(ALL_FREQUENCIES) and "cell lemma" in line], lines
    assert [line for line in lines if "quotient of a vector" in line], lines
    assert pickle.loads(pickle.dumps(found)).explain() == found.explain()


@pytest.mark.parametrize(
    ("shape", "at", "rule"),
    [
        ((2, 2, 3), {"padding_mode": "reflect", "padding": 1}, "times 1.732"),
        ((3, 3, 3), {"input_shape": 9}, "norms at 9 frequencies"),
        ((3, 3, 3), {"input_shape": 4000, "rtol": 1e-7}, "grid lemma"),
        ((90, 80), {}, "one tap"),
        ((4, 2, 3), {"input_shape": 5, "groups": 2, "padding_mode": "zeros"}, "the largest of 2 groups"),
        ((2, 2, 3), {"input_shape": 9, "dilation": 2, "padding_mode": "zeros"}, "polyphase component"),
        ((2, 2, 3), {"budget": 1e-9}, "root of the taps times the Frobenius norm"),
    ],
)
def test_every_way_to_a_bound_is_told(shape: tuple[int, ...], at: dict[str, Any], rule: str) -> None:
    found = specnorm.enclose(np.random.RandomState(0).standard_normal(shape), **at)
    assert rule in found.explain()


def test_a_claim_prints_on_one_line_whatever_it_was_made_of() -> None:
    """What it was made of, of each claim in its turn, filled a screen for a node of a network."""
    first = assumed(2.0)
    assert repr(Upper._largest([first, first], ALL_FREQUENCIES, "largest")).count("Upper(") == 1
