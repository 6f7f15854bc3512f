"""Error messages for unknown keywords, with the keyword that was most likely meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

_MEANT = {
    "input_shape": ("shape", "size", "image_shape", "input_size", "image_size", "in_shape"),
    "stride": ("strides", "window_strides", "subsample"),
    "dilation": ("dilations", "dilation_rate", "kernel_dilation", "rhs_dilation", "rate"),
    "groups": ("group", "feature_group_count", "n_groups"),
    "transposed": ("transpose", "is_transposed"),
    "layout": ("data_format", "order", "format"),
    "padding_mode": ("mode", "pad_mode", "boundary"),
    "padding": ("pad", "pads"),
    "rtol": ("tol", "tolerance", "atol", "eps", "epsilon", "precision", "reltol"),
    "n_iter": ("iters", "n_iters", "iterations", "max_iter", "maxiter", "niter", "n_power_iterations", "steps"),
    "budget": ("timeout", "seconds", "max_seconds", "time_limit", "time"),
    "bound": ("max_norm", "norm", "lipschitz", "bounds", "limit"),
}
"""Names that other libraries use for each keyword."""
_KERNEL_SIZE = ("kernel_size", "kernel_shape", "ksize", "in_channels", "out_channels", "filters", "cin", "cout")
"""Names of facts that the kernel's shape determines."""
_LEAST_SIMILARITY = 0.7
"""Similarity from which an unknown keyword counts as a misspelt one."""


def check_words(function: str, keywords: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse keywords that a function does not have.

    Raises
    ------
    TypeError
        With the keyword that was most likely meant.
    """
    unknown = [word for word in keywords if word not in allowed]
    if unknown:
        listed = ", ".join(sorted(allowed))
        raise TypeError(f"{function} has no keyword {unknown[0]!r}{_advice(unknown[0], allowed)} It takes {listed}.")


def _advice(word: str, allowed: Collection[str]) -> str:
    """The end of the error message about an unknown keyword."""
    if word in _KERNEL_SIZE:
        return ": the kernel's own shape, (cout, cin // groups, *kernel_shape), says it; leave it out."
    meant = _meant_by(word)
    if meant not in allowed:
        meant = next(iter(get_close_matches(word, sorted(allowed), 1, _LEAST_SIMILARITY)), "")
    return f"; did you mean {meant}?" if meant else "."


def _meant_by(word: str) -> str:
    """The keyword of specnorm for another library's name; empty if there is none."""
    for keyword, names in _MEANT.items():
        if word.lower() in names:
            return keyword
    return ""
