"""Bad input, on every library: the right class of error, and a message that names what was given and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import PUBLIC
from helpers.libraries import Lib

import specnorm
from specnorm.errors import GeometryError, KernelError, NoBackend

Call = Callable[..., Any]

everywhere = pytest.mark.parametrize("name", PUBLIC)


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype=dtype)


def refused(error: type[Exception], words: str, call: Call, *args: Any, **kwargs: Any) -> None:
    """The call raises this error, whose message holds each of the words (separated by ``|``), and is a sentence."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert type(caught.value) is error
    for word in words.split("|"):
        assert word in message, f"{word!r} is not in {message!r}"
    assert re.search(r"[.?)\w]$", message.strip()), message
    assert "<" not in message, f"an object's repr got into the message: {message!r}"


def test_every_public_function_is_tested_here() -> None:
    functions = {n for n in specnorm.__all__ if callable(getattr(specnorm, n)) and n.islower()}
    elsewhere = {
        "audit", "operator_norm", "curvature_bound", "certified_radius", "init_tracking", "track",
        "track_many", "slogdet", "matrix_norm", "logit_bound",
    }  # fmt: skip
    assert functions - elsewhere == set(PUBLIC)


# -- the kernel --------------------------------------------------------------------------------------------------
@everywhere
def test_wrong_rank(xp: Lib, name: str) -> None:
    for shape, count in (((), "0 axes"), ((3,), "1 axis"), ((2, 2, 1, 1, 1, 1), "6 axes")):
        words = f"kernel of shape {shape} has {count}.|(cout, cin // groups, *kernel_shape)|give 2 to 5 axes"
        refused(KernelError, words, PUBLIC[name], xp.asarray(ones(*shape)))


@everywhere
def test_non_finite(xp: Lib, name: str) -> None:
    words = "of shape (2, 2, 3) holds 1 non-finite value (NaN or infinity)|Expected finite numbers"
    for value in (np.nan, np.inf, -np.inf):
        kernel = ones(2, 2, 3)
        kernel[0, 1, 2] = value
        refused(KernelError, words, PUBLIC[name], xp.asarray(kernel))


@everywhere
def test_no_array_at_all(name: str) -> None:
    for kernel in ([[1.0]], 1.0, None):
        with pytest.raises(NoBackend, match=r"is not an array\. Pass an array of one of these libraries"):
            PUBLIC[name](kernel)


# -- the geometry ------------------------------------------------------------------------------------------------
BAD_GEOMETRY: dict[str, tuple[dict[str, Any], str]] = {
    "groups that do not divide": ({"groups": 3}, "groups=3 does not divide cout=4|(4, 2, 3, 3)|groups dividing 4"),
    "groups of zero": ({"groups": 0}, "groups=0 is below 1"),
    "groups that are a truth value": ({"groups": True}, "groups=True is a truth value"),
    "unknown layout": ({"layout": "NCHW"}, "layout='NCHW' is not one of OI, |HWIO"),
    "layout of another rank": ({"layout": "WIO"}, "layout='WIO' names 3 axes|(4, 2, 3, 3)"),
    "unknown padding_mode": ({"padding_mode": "constant"}, "padding_mode='constant' is not one of|'zeros'"),
    "unknown padding": ({"padding": "full"}, "padding='full' is not|(before, after)"),
    "padding in capitals": ({"padding": "SAME"}, "Give padding='same_upper'."),
    "negative padding": ({"padding": -1}, "padding=-1 is below 0"),
    "padding for other axes": ({"padding": [(1, 1)]}, "padding=[(1, 1)] has 1 entry;|2 spatial axes"),
    "padding of triples": ({"padding": [(1, 1, 1), (1, 1, 1)]}, "one (before, after) pair per axis"),
    "stride of zero": ({"stride": 0}, "stride=0 is below 1"),
    "stride for other axes": ({"stride": (2,)}, "stride=(2,) has 1 entry;|2 spatial axes|one per axis"),
    "dilation of zero": ({"dilation": 0}, "dilation=0 is below 1"),
    "transposed by a number": ({"transposed": 1}, "transposed=1 is not True or False"),
    "input_shape for other axes": ({"input_shape": (8, 8, 8)}, "input_shape=(8, 8, 8) has 3 entries|2 spatial axes"),
    "negative input_shape": ({"input_shape": (8, -8)}, "input_shape=-8 is below 1"),
    "fractional input_shape": ({"input_shape": 8.0}, "input_shape=8.0 is not an integer"),
    "input_shape that is a truth value": ({"input_shape": True}, "input_shape=True is a truth value"),
    "stride that does not divide": (
        {"stride": 2, "input_shape": (6, 7)},
        "stride=(2, 2) does not divide input_shape=(6, 7)|Choose an input_shape divisible|leave input_shape out",
    ),
}  # fmt: skip
"""Keywords that are wrong for a kernel (4, 2, 3, 3), and what the message says."""


@everywhere
def test_impossible_geometry_is_refused(name: str) -> None:
    for geometry, words in BAD_GEOMETRY.values():
        refused(GeometryError, words, PUBLIC[name], ones(4, 2, 3, 3), **geometry)


@everywhere
def test_unknown_keyword(xp: Lib, name: str) -> None:
    """A misspelt keyword must never be taken for the default."""
    with pytest.raises(TypeError, match=r"'strides'; did you mean stride\?"):
        PUBLIC[name](xp.asarray(ones(4, 2, 3, 3)), strides=2)


def refusal_of(call: Call, *args: Any, **kwargs: Any) -> str | None:
    try:
        call(*args, **kwargs)
    except GeometryError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["gram_bound", "conv_norm", "singular_values", "enclose"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "symmetric", "replicate"])
def test_padding_that_a_function_does_not_serve(xp: Lib, name: str, mode: str) -> None:
    """Refused, naming what was given, or answered for this padding: never for the circular one."""
    function, kernel = PUBLIC[name], xp.asarray(np.random.RandomState(0).standard_normal((4, 2, 3, 3)))
    refusal = refusal_of(function, kernel, input_shape=6, padding_mode=mode)
    if refusal is None and name in ("conv_norm", "singular_values"):
        given, circular = (
            np.max(xp.to_numpy(function(kernel, input_shape=6, padding_mode=padding))) for padding in (mode, "circular")
        )
        assert abs(given - circular) > 1e-3 * circular, f"{name} answers for circular padding"
    if refusal is not None:
        assert re.search(f"padding_mode.*{mode}", refusal), refusal
        assert re.search("[Uu]se |[Ll]eave |see docs", refusal), refusal
