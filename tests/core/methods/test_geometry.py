"""Every geometry is served rightly or refused; the refusals are an exact set, and nobody answers for another layer."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, Recipe, layers
from helpers.checks import assert_exact, assert_tight, assert_valid
from helpers.geometries import REFUSALS, refused
from helpers.libraries import Lib
from helpers.oracle import Truth, all_singular_values, dense_norm, sigma_star
from helpers.promises import PROMISES, for_all, rounded
from hypothesis import given
from numpy.typing import NDArray

import specnorm
from specnorm.geometry.polyphase import from_blocks, to_blocks
from specnorm.geometry.spec import ConvSpec, at_every_size
from specnorm.methods import Enclose, FantasticFour, Grid, TensorNorm

LIBRARIES = ("numpy", "torch")


def supported(xp: Lib) -> Lib:
    if xp.name not in LIBRARIES:
        pytest.skip("geometry is the same code on every library; two are enough")
    return xp


def measured(lib: Lib, name: str, layer: Layer, size: tuple[int, ...] | None, geometry: dict[str, Any]) -> Any:
    """A method's result, or None where it refuses and has to."""
    plain = {"padding": "same", "padding_mode": "circular"} if layer.input_shape else {}
    kernel, options = lib.asarray(layer.kernel), {**plain, **geometry}
    if refused(name, Layer(layer.recipe, layer.input_shape, options), at_size=size is not None):
        with pytest.raises(REFUSALS):
            specnorm.measure(kernel, PROMISES[name].method, input_shape=size, **options)
        return None
    return specnorm.measure(kernel, PROMISES[name].method, input_shape=size, **options)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "any"])
@pytest.mark.parametrize("name", [n for n, p in PROMISES.items() if p.kind == "upper"])
def test_upper_values_hold_for_the_layer_at_its_size(xp: Lib, name: str, plain: bool) -> None:
    lib = supported(xp)

    def check(layer: Layer) -> None:
        truth = dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
        for size in (None, layer.input_shape):
            got = measured(lib, name, layer, size, layer.geometry)
            if got is None:
                continue
            if got.kind == "upper":
                assert_valid(lib.number(got.value), "upper", truth)
            else:
                assert lib.number(got.value) >= rounded(truth, layer.recipe, lib).lo * (1 - 1e-4)

    for_all(lib, layers(plain=plain, around=True), check, share=0.6)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "any"])
@pytest.mark.parametrize("name", [n for n, p in PROMISES.items() if p.kind != "upper" and n != "symbol"])
def test_other_values_hold_for_the_layer_at_its_size(xp: Lib, name: str, plain: bool) -> None:
    lib, promise = supported(xp), PROMISES[name]

    def check(layer: Layer) -> None:
        result = measured(lib, name, layer, layer.input_shape, layer.geometry)
        if result is None:
            return
        got, truth = lib.number(result.value), dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
        if promise.kind == "lower":
            assert_valid(got, "lower", truth)
            if name == "power":
                assert_tight(got, rounded(truth, layer.recipe, lib), promise.factor(layer.recipe.shape))
        else:
            roomy = rounded(truth, layer.recipe, lib)
            assert roomy.lo * (1 - 1e-6) <= got <= roomy.hi * (1 + 1e-6)

    for_all(lib, layers(plain=plain, around=True), check, share=0.6)


@pytest.mark.parametrize("name", [n for n, p in PROMISES.items() if p.about == "supremum"])
def test_values_without_a_size_hold_for_the_supremum(xp: Lib, name: str) -> None:
    lib, promise = supported(xp), PROMISES[name]

    def check(layer: Layer) -> None:
        geometry = {k: v for k, v in layer.geometry.items() if k not in ("padding", "padding_mode")}
        got = measured(lib, name, layer, None, geometry)
        truth: Truth = sigma_star(layer.kernel, **geometry, max_cells=3000)
        if got.kind in ("upper", "lower"):
            assert_valid(lib.number(got.value), got.kind, truth)
        else:
            assert lib.number(got.value) >= rounded(truth, layer.recipe, lib).lo * (1 - 1e-4)
        if promise.kind == "upper":
            # The theorem's factor is that of the blocks, no larger than the stored kernel's.
            assert lib.number(got.value) <= promise.factor(layer.recipe.shape) * rounded(truth, layer.recipe, lib).hi

    for_all(lib, layers(modes=("circular",)), check, share=0.6)


# -- words for padding -------------------------------------------------------------------------------------------
def test_whose_same_is_said_where_it_matters() -> None:
    kernel = np.random.default_rng(0).standard_normal((2, 2, 3))
    strided: dict[str, Any] = {"stride": 2, "padding_mode": "zeros"}
    assert "TensorFlow's and JAX's is \"same_upper\"" in str(specnorm.enclose(kernel, 8, **strided))
    others: tuple[dict[str, Any], ...]
    others = ({"padding": "same_upper"}, {"padding": 1}, {"stride": 1}, {"padding_mode": "circular"})
    for other in others:
        assert "TensorFlow" not in str(specnorm.enclose(kernel, 8, **{**strided, **other}))
    with pytest.raises(specnorm.errors.GeometryError, match="give input_shape"):
        specnorm.enclose(kernel, stride=2, padding_mode="reflect", padding="same_upper")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("mirror", "reflect"), ("grid-mirror", "symmetric"), ("nearest", "replicate"), ("wrap", "circular")],
)
def test_a_border_of_another_library_is_named(theirs: Any, ours: str) -> None:
    with pytest.raises(specnorm.errors.GeometryError, match=f"Give padding_mode='{ours}'.*SciPy calls it 'reflect'"):
        specnorm.enclose(np.ones((1, 1, 3)), 8, padding_mode=theirs)


@pytest.mark.parametrize(("theirs", "ours"), [
    ("mirror", "reflect"), ("reflect", "symmetric"), ("nearest", "replicate"), ("wrap", "circular"),
    ("constant", "zeros"),
])  # fmt: skip
@pytest.mark.parametrize("taps", [(3,), (4,), (2, 3), (4, 2), (2, 3, 2)])
def test_borders_are_those_of_scipy(theirs: str, ours: Any, taps: tuple[int, ...]) -> None:
    """By the names of the table of geometry, for odd and even kernels; `ndimage.convolve` has the flipped kernel."""
    from scipy import ndimage

    sizes = (6, 5, 4)[: len(taps)]
    kernel = np.random.default_rng(len(taps)).standard_normal(taps)
    pixels = np.eye(math.prod(sizes)).reshape(-1, *sizes)
    flipped = np.flip(kernel)
    padding: Any
    for function, shown, padding in ((ndimage.correlate, kernel, "same_lower"), (ndimage.convolve, flipped, "same")):
        matrix = np.stack([function(x, kernel, mode=theirs).ravel() for x in pixels])
        found = specnorm.singular_values(shown[None, None], sizes, padding_mode=ours, padding=padding)
        np.testing.assert_allclose(found, np.linalg.svd(matrix, compute_uv=False), atol=1e-12)


# -- padding's factor --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["reflect", "symmetric", "replicate"])
def test_the_factor_of_padding_is_attained(mode: Any) -> None:
    """With one tap the layer is the padding itself, and sigma* is 1."""
    kernel = np.ones((1, 1, 1))
    for pads in itertools.product(range(4), range(4)):
        norms = {}
        for n in range({"reflect": max(pads) + 1, "symmetric": max(1, *pads)}.get(mode, 1), 11):
            norms[n] = dense_norm(kernel, n, padding_mode=mode, padding=[pads])
            value = float(specnorm.f4_bound(kernel, input_shape=n, padding_mode=mode, padding=[pads]))
            assert norms[n].lo <= value <= norms[n].hi * (1 + 1e-12)
        value = float(specnorm.f4_bound(kernel, padding_mode=mode, padding=[pads]))
        assert max(t.lo for t in norms.values()) <= value <= max(t.hi for t in norms.values()) * (1 + 1e-12)


def blur(taps: int) -> Any:
    window = np.hanning(taps + 2)[1:-1]
    return np.outer(window, window) / window.sum() ** 2


@pytest.mark.parametrize(
    ("kernel", "norm"),
    [
        (blur(7), 1.0),
        (np.outer([1.0, 2, 1], [1.0, 0, -1]) / 8, 1.0),
        (np.array([[0, 1.0, 0], [1, -4, 1], [0, 1, 0]]), 8.0),
    ],
    ids=["blur", "sobel", "laplacian"],
)
def test_filters_of_one_parity_have_the_norm_of_their_symbol(kernel: np.ndarray, norm: float) -> None:
    layer = kernel[None, None]
    for size in (512, None):
        upper = float(specnorm.enclose(layer, size, padding_mode="symmetric").upper)
        assert 0.999 * norm <= upper <= 1.002 * norm
        assert specnorm.certify(layer, 1.002 * norm, input_shape=size, padding_mode="symmetric")
    gradient = specnorm.value_and_grad(layer, specnorm.methods.Enclose(), padding_mode="symmetric")[1]
    assert float(np.sum(gradient * layer)) == pytest.approx(norm, rel=2e-3)


@pytest.mark.parametrize(
    ("taps", "n", "mode", "norm"),
    [((1.0, 0, 0), 4, "symmetric", np.sqrt(2)), ((0.25, 0.5, 0.25), 3, "reflect", 1.0606)],
)
def test_borders_that_lift_the_norm_keep_their_factor(taps: Any, n: int, mode: Any, norm: float) -> None:
    """A kernel of both parities under symmetric padding, and an even one under reflect padding."""
    kernel = np.array(taps)[None, None]
    truth = dense_norm(kernel, n, padding_mode=mode, padding=1)
    assert truth.lo == pytest.approx(norm, rel=1e-4)
    assert float(specnorm.enclose(kernel, padding_mode=mode).upper) >= truth.lo


# -- blocks ------------------------------------------------------------------------------------------------------
@given(layer=layers(dtypes=("float64",)))
def test_reduction_to_blocks_has_its_adjoint(layer: Layer) -> None:
    """<to_blocks(x), y> = <x, from_blocks(y)>, and from_blocks gives the kernel back, bit by bit."""
    kernel: Any = layer.kernel[None] / (10.0**layer.recipe.scale)
    geometry = {k: v for k, v in layer.geometry.items() if k not in ("padding", "padding_mode")}
    spec = ConvSpec.of(kernel.shape[1:], **geometry)
    numpy: Any = np
    blocks: Any = to_blocks(kernel, spec, xp=numpy)
    assert blocks.shape == (spec.groups, *spec.block_shape)
    np.testing.assert_array_equal(from_blocks(blocks, spec, xp=numpy), kernel)
    other: Any = Recipe(blocks.shape, seed=5).kernel
    one, two = float(np.sum(blocks * other)), float(np.sum(kernel * from_blocks(other, spec, xp=numpy)))
    assert abs(one - two) <= 1e-12 * float(np.sum(np.abs(blocks * other)))


@pytest.mark.sampled("numpy", "strict", "torch")
def test_every_library_folds_alike(xp: Lib) -> None:
    """Everything at once, compiled where the library compiles; values and statistics of three groups."""
    kernel = Recipe((6, 2, 3, 4), dtype=xp.dtypes[-1], seed=3).kernel
    options: dict[str, Any] = TRACED
    truth = sigma_star(kernel, **options)
    for method in (FantasticFour(), Grid(), Enclose(), TensorNorm()):
        got = specnorm.measure(xp.asarray(kernel), method, **options)
        assert got.kind == "upper"
        assert truth.lo <= xp.number(got.value) <= truth.hi * 4
    at_size = dense_norm(kernel, (4, 2), **options)
    assert xp.number(specnorm.gram_bound(xp.asarray(kernel), (4, 2), **options)) >= at_size.lo
    rtol = 1e-9 if xp.has_float64 else 1e-4
    assert_exact(xp.number(specnorm.conv_norm(xp.asarray(kernel), (4, 2), **options)), at_size, rtol)
    spectrum = xp.to_numpy(specnorm.singular_values(xp.asarray(kernel), (4, 2), k=20, **options))
    np.testing.assert_allclose(spectrum, all_singular_values(kernel, (4, 2), **options)[:20], rtol=10 * rtol)


TRACED: dict[str, Any] = {"stride": (2, 3), "dilation": (2, 1), "groups": 3, "transposed": True}


# -- which sizes are meant -------------------------------------------------------------------------------------------
def circular_norm(kernel: NDArray[Any], n: int, stride: int) -> Truth:
    return dense_norm(kernel, n, stride=stride, padding=1)


CASES: list[tuple[dict[str, Any], bool]] = [
    ({"stride": 2}, True), ({}, False), ({"stride": 2, "padding_mode": "zeros"}, False),
    ({"stride": 2, "padding_mode": "reflect"}, False), ({"stride": 2, "padding": 0}, False),
    ({"stride": 2, "padding": 1}, True), ({"stride": 2, "transposed": True}, False),
]  # fmt: skip


@pytest.mark.parametrize(("geometry", "divided"), CASES)
def test_a_result_says_which_sizes(geometry: dict[str, Any], divided: bool) -> None:
    words = "every input size that the stride divides" if divided else "every input size"
    spec = ConvSpec.of((2, 2, 3), **geometry)
    assert spec.sizes_in_words == words
    assert not ConvSpec.of((2, 2, 3), **at_every_size(geometry)).needs_divisible_sizes
    if not divided:
        assert at_every_size(geometry) == geometry


def test_certify_in_place_means_every_size(torch: Any) -> None:
    """A circular layer with a stride is shrunk by what bounds sizes that the stride does not divide, too."""
    specnorm_torch = pytest.importorskip("specnorm_torch")
    layer = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    layer.weight.data.fill_(1.0)
    specnorm_torch.rescale_(torch.nn.Sequential(layer), 1.0)
    kernel = layer.weight.detach().numpy()
    assert max(circular_norm(kernel, n, 2).lo for n in range(2, 12)) <= 1
    assert circular_norm(kernel, 3, 2).lo > 0.8
