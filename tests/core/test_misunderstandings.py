"""What people meant by a call: a filter without its channels, another library's keyword, arguments in another order."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import PUBLIC
from hypothesis import given, settings
from hypothesis import strategies as st

from specnorm.errors import GeometryError, LayoutWarning

specnorm: Any = importlib.import_module("specnorm")  # called with what its types refuse
SPATIAL = {
    "input_shape": st.one_of(st.integers(16, 64), st.tuples(st.integers(16, 64), st.integers(16, 64))),
    "stride": st.one_of(st.integers(1, 2), st.tuples(st.integers(1, 2), st.integers(1, 2))),
    "dilation": st.one_of(st.integers(1, 2), st.tuples(st.integers(1, 2), st.integers(1, 2))),
    "padding": st.one_of(st.sampled_from(("same", "valid")), st.integers(0, 3), st.just([(1, 1), (1, 1)])),
    "padding_mode": st.sampled_from(("circular", "zeros", "reflect", "symmetric", "replicate")),
}


def blur(k: int, ndim: int = 2) -> np.ndarray:
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


# -- arguments in another order, and counts ----------------------------------------------------------------------
GAUSS = np.exp(-(np.arange(-4, 5) ** 2) / 8)
PSF = np.outer(GAUSS, GAUSS) / GAUSS.sum() ** 2


def test_a_bare_filter_is_said_to_be_a_matrix() -> None:
    """A blur of norm 1 is a matrix of norm 0.15: the answer and a warning say so; as a convolution it is right."""
    for shown in (specnorm.enclose, specnorm.enclose_smallest, specnorm.condition_number):
        with pytest.warns(UserWarning, match=r"taken for a 9 x 9 matrix.* give psf\[None, None\]"):
            assert "a 9 x 9 matrix" in str(shown(PSF)) or shown is specnorm.condition_number
    calls: list[Callable[[], Any]] = [
        lambda: specnorm.certify(PSF, 0.5), lambda: specnorm.conv_norm(PSF), lambda: specnorm.rescale(PSF),
    ]  # fmt: skip
    for call in calls:
        with pytest.warns(UserWarning, match="taken for a 9 x 9 matrix"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(specnorm.enclose(PSF[None, None]).lower) == pytest.approx(1.0, rel=1e-3)
        specnorm.enclose(PSF, layout="OI")
        specnorm.enclose(np.random.default_rng(0).standard_normal((9, 9)))


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (3, 3, 3, 16), (3, 3, 1, 32), (5, 16, 32), (3, 3, 3, 8, 16)])
def test_a_kernel_in_another_frameworks_order_is_noticed(shape: tuple[int, ...]) -> None:
    with pytest.warns(LayoutWarning, match=r"layout='D?H?WIO'") as caught:
        specnorm.f4_bound(np.ones(shape))
    assert caught[0].filename == __file__
    specnorm.f4_bound(np.ones(shape), layout={3: "OIW", 4: "OIHW", 5: "OIDHW"}[len(shape)])


@pytest.mark.parametrize(
    "shape",
    [
        (16, 3, 3, 3), (3, 3, 3, 3), (3, 3, 7, 7), (3, 3, 15, 15), (768, 3, 16, 16), (3, 3, 1, 1), (3, 1, 1, 7),
        (258, 1, 256),
    ],
)  # fmt: skip
def test_usual_kernels_of_torch_are_not_doubted(shape: tuple[int, ...]) -> None:
    specnorm.f4_bound(np.ones(shape))
