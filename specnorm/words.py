"""Keywords that a function does not have, and what their writers most likely meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable

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
_WORDS = {other: word for word, others in _MEANT.items() for other in others}
_KERNEL_SIZE = ("kernel_size", "kernel_shape", "ksize", "in_channels", "out_channels", "filters", "cin", "cout")
_CLOSE = 0.7


def check_words(function: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse keywords that a function does not have.

    Raises
    ------
    TypeError
        With the keyword that was most likely meant.
    """
    unknown = [word for word in given if word not in known]
    if unknown:
        listed = ", ".join(sorted(known))
        raise TypeError(f"{function} has no keyword {unknown[0]!r}{_advice(unknown[0], known)} It takes {listed}.")


def warn_of_former_keyword(former: str, keyword: str) -> None:
    """Warn the caller's caller's caller, who gave a keyword by the name that it had before 0.2."""
    import warnings  # for few

    warnings.warn(
        f"{former}= is called {keyword}= now; the old name leaves with version 0.3.", DeprecationWarning, stacklevel=4
    )


def _advice(word: str, known: Collection[str]) -> str:
    if word in _KERNEL_SIZE:
        return ": the kernel's own shape, (cout, cin // groups, *kernel_shape), says it; leave it out."
    from difflib import get_close_matches  # for errors alone

    meant = _WORDS.get(word.lower(), "")
    if meant not in known:
        meant = next(iter(get_close_matches(word, sorted(known), 1, _CLOSE)), "")
    return f"; did you mean {meant}?" if meant else "."
