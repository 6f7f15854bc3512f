"""What people meant by a call: a filter without its channels, another library's keyword, arguments in another order."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.cases import PUBLIC
from hypothesis import given, settings
from hypothesis import strategies as st

from specnorm.errors import GeometryError, LayoutWarning, MethodError, NoBackend
from specnorm.methods import Gram

specnorm: Any = importlib.import_module("specnorm")  # called with what its types refuse
KERNEL = np.cos(np.arange(54.0)).reshape(3, 2, 3, 3)
SPATIAL = {
    "input_shape": st.one_of(st.integers(16, 64), st.tuples(st.integers(16, 64), st.integers(16, 64))),
    "stride": st.one_of(st.integers(1, 2), st.tuples(st.integers(1, 2), st.integers(1, 2))),
    "dilation": st.one_of(st.integers(1, 2), st.tuples(st.integers(1, 2), st.integers(1, 2))),
    "padding": st.one_of(st.sampled_from(("same", "valid")), st.integers(0, 3), st.just([(1, 1), (1, 1)])),
    "padding_mode": st.sampled_from(("circular", "zeros", "reflect", "symmetric", "replicate")),
}


def blur(k: int, ndim: int = 2) -> np.ndarray:
    """A point-spread function: a Gaussian of sum 1."""
    line = np.exp(-((np.arange(k) - k // 2) ** 2) / 8.0)
    whole = np.ones(())
    for _ in range(ndim):
        whole = np.multiply.outer(whole, line)
    return np.asarray(whole / whole.sum())


# -- a filter without its channels -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PUBLIC)
@settings(max_examples=8)
@given(data=st.data())
def test_a_matrix_has_no_spatial_arguments(name: str, data: st.DataObject) -> None:
    """A point-spread function of two axes was measured as the matrix of a linear layer, 0.14 for a norm of 1."""
    psf = blur(data.draw(st.sampled_from((3, 15)), label="k"))
    words = data.draw(st.sets(st.sampled_from(sorted(SPATIAL)), min_size=1), label="words")
    given_ = {word: data.draw(SPATIAL[word], label=word) for word in words}
    with pytest.raises(GeometryError, match=r"psf\[None, None\]"):
        PUBLIC[name](psf, **{"input_shape": None, **given_})


@given(k=st.integers(2, 15), n=st.integers(20, 64))
def test_the_advice_measures_the_blur(k: int, n: int) -> None:
    psf = blur(k)
    true = float(np.abs(np.fft.fft2(psf, (n, n))).max())
    assert specnorm.enclose(psf[None, None], n).upper >= true * (1 - 1e-12)
    assert abs(float(specnorm.conv_norm(psf[None, None], n)) - true) < 1e-5 * true


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("word", ["input_shape", "stride", "dilation", "padding"])
def test_sizes_of_more_axes_than_the_kernel_has(name: str, word: str) -> None:
    def call(array: np.ndarray, value: Any) -> None:
        PUBLIC[name](array, **{"input_shape": None, word: value})

    pair, triple = ((1, 1),) * 2, ((1, 1),) * 3
    several = {"padding": (pair, triple)}.get(word, ((8, 8), (8, 8, 8)))
    with pytest.raises(GeometryError, match=r"stack of filters, give kernel\[:, None\].*psf\[None, None\]"):
        call(np.ones((5, 3, 3)), several[0])
    with pytest.raises(GeometryError, match=r"one filter psf, give psf\[None, None\]"):
        call(blur(3, 3), several[1])
    with pytest.raises(GeometryError, match=r"one per axis, or|one .before, after. pair per axis"):
        call(np.ones((5, 3, 3)), several[1] + several[1][:1])


# -- keywords of other libraries ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda k: specnorm.enclose(k, shape=32), r"enclose has no keyword 'shape'; did you mean input_shape\?"),
        (lambda k: specnorm.conv_norm(k, shape=32), r"conv_norm has no .*did you mean input_shape\?"),
        (lambda k: specnorm.enclose(k, tol=1e-3), r"enclose has no keyword 'tol'; did you mean rtol\?"),
        (lambda k: specnorm.enclose(k, strides=2), r"did you mean stride\?"),
        (lambda k: specnorm.enclose(k, kernel_size=3), "the kernel's own shape, .*, says it; leave it out"),
        (lambda k: specnorm.gram_bound(k, iterations=3), r"did you mean n_iter\?"),
        (lambda k: specnorm.rescale(k, max_norm=1.0), r"did you mean bound\?"),
        (lambda k: specnorm.tn_bound(k, gruops=2), r"did you mean groups\?"),
        (lambda k: specnorm.tn_bound(k, colour="red"), r"tn_bound has no keyword 'colour'\. It takes dilation"),
    ],
)
def test_a_keyword_that_is_not_there(call: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words) as caught:
        call(KERNEL)
    assert "ConvSpec" not in str(caught.value)


# -- arguments in another order, and counts ----------------------------------------------------------------------
@pytest.mark.parametrize("name", ["certify", "rescale", "clip", "enclose", "conv_norm"])
def test_a_number_in_the_kernels_place(name: str) -> None:
    with pytest.raises(NoBackend, match=rf"{name} takes the kernel first: {name}\(kernel, 7.4\)"):
        getattr(specnorm, name)(7.4, KERNEL)


CALLS_WITHOUT_PRODUCTS: list[Callable[[], Any]] = [
    lambda: Gram(n_iter=0), lambda: specnorm.gram_bound(KERNEL, 8, n_iter=0)
]  # fmt: skip


def test_counts_of_gram_products() -> None:
    for call in CALLS_WITHOUT_PRODUCTS:
        with pytest.raises(MethodError, match="n_iter=0 is not a count: give an integer of at least 1"):
            call()


GAUSS = np.exp(-(np.arange(-4, 5) ** 2) / 8)
PSF = np.outer(GAUSS, GAUSS) / GAUSS.sum() ** 2


def test_a_bare_filter_is_said_to_be_a_matrix() -> None:
    """A blur of norm 1 is a matrix of norm 0.15: the answer and a warning say so; as a convolution it is right."""
    for shown in (specnorm.enclose, specnorm.enclose_smallest, specnorm.condition_number):
        with pytest.warns(UserWarning, match=r"taken for a 9 x 9 matrix.* give psf\[None, None\]"):
            assert "a 9 x 9 matrix" in str(shown(PSF)) or shown is specnorm.condition_number
    calls: list[Callable[[], Any]] = [
        lambda: specnorm.certify(PSF, 0.5),
        lambda: specnorm.conv_norm(PSF),
        lambda: specnorm.rescale(PSF),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match="taken for a 9 x 9 matrix"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(specnorm.enclose(PSF[None, None]).lower) == pytest.approx(1.0, rel=1e-3)
        specnorm.enclose(PSF, layout="OI")
        specnorm.enclose(np.random.default_rng(0).standard_normal((9, 9)))


def test_two_bounds_are_formatted_and_not_rounded() -> None:
    found = specnorm.enclose(np.asarray([[0.3]]))
    assert f"{found:.1f}" == "0.2 <= norm <= 0.3"
    with pytest.raises(TypeError, match=r"round\(\) of Enclosure.*format\(enclosure, '\.2f'\)"):
        round(found, 2)


@pytest.mark.parametrize("value", [10**400, Fraction(10**400)])
def test_numbers_beyond_float64_are_named(value: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: specnorm.certify(np.ones((1, 1, 3)), value),
        lambda: specnorm.rescale(np.ones((1, 1, 3)), value),
        lambda: specnorm.is_isometry(np.ones((1, 1, 3)), value),
    ]
    for call in calls:
        with pytest.raises(MethodError, match=r"beyond 1\.8e\+308, the largest of float64"):
            call()


def test_a_name_of_another_package_is_told() -> None:
    for name, package in (("spectral_norm", "specnorm_torch"), ("network_bound", "specnorm_networks")):
        with pytest.raises(AttributeError, match=package):
            getattr(specnorm, name)
    assert str(specnorm.complete(np.ones((2, 2, 3)))).startswith("Completed(6.00")


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (3, 3, 3, 16), (3, 3, 1, 32), (5, 16, 32), (3, 3, 3, 8, 16)])
def test_a_kernel_in_another_frameworks_order_is_noticed(shape: tuple[int, ...]) -> None:
    with pytest.warns(LayoutWarning, match=r"layout='D?H?WIO'") as caught:
        specnorm.f4_bound(np.ones(shape))
    assert caught[0].filename == __file__
    specnorm.f4_bound(np.ones(shape), layout={3: "OIW", 4: "OIHW", 5: "OIDHW"}[len(shape)])


@pytest.mark.parametrize(
    "shape",
    [
        (16, 3, 3, 3),
        (3, 3, 3, 3),
        (3, 3, 7, 7),
        (3, 3, 15, 15),
        (768, 3, 16, 16),
        (3, 3, 1, 1),
        (3, 1, 1, 7),
        (258, 1, 256),
    ],
)
def test_usual_kernels_of_torch_are_not_doubted(shape: tuple[int, ...]) -> None:
    specnorm.f4_bound(np.ones(shape))
