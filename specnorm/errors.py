"""The errors and warnings of specnorm. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

__all__ = [
    "BackendConflict",
    "BackendError",
    "BackendVersion",
    "BrokenBackend",
    "CertificateError",
    "EstimateWarning",
    "GeometryError",
    "InternalError",
    "KernelError",
    "LayoutWarning",
    "MethodError",
    "MixedBackends",
    "ModelFileError",
    "NoBackend",
    "SecondDerivativeError",
    "SpecnormError",
    "TracerError",
    "TranslationError",
    "Undecided",
]


class SpecnormError(Exception):
    """Base of all errors that specnorm raises."""


class KernelError(SpecnormError, ValueError):
    """The kernel has a wrong number of axes, a wrong dtype, an empty axis or a non-finite value."""


class GeometryError(SpecnormError, ValueError):
    """The geometry (stride, groups, padding, input_shape, layout, ...) does not fit the kernel."""


class MethodError(SpecnormError, ValueError):
    """The method does not support this call; the message names one that does."""


_BOUNDS = "completion_bound, grid_bound, f4_bound and gram_bound are proven bounds that work there."
_A_SMALLER_NORM = "gram_rescaling works there, and makes a kernel of norm at most 1."
_BOTH_ENDS = "isometry_bound works there, and bounds all singular values."
_UNDER_TRACERS = {
    "rescale": _A_SMALLER_NORM, "clip": _A_SMALLER_NORM, "enclose_smallest": _BOTH_ENDS,
    "condition_number": _BOTH_ENDS, "enclose_isometry": _BOTH_ENDS, "is_isometry": _BOTH_ENDS,
}  # fmt: skip
"""What to use under a tracer in place of functions that bound no norm."""


class TracerError(MethodError):
    """A function that needs concrete values was called under jit, compile or vmap.

    Parameters
    ----------
    function : str
        The function that was called.
    """

    def __init__(self, function: str) -> None:
        super().__init__(
            f"{function} looks at values while it runs, which jit, compile and vmap do not have. Call it outside of "
            f"them. {_UNDER_TRACERS.get(function, _BOUNDS)}"
        )


class BackendError(SpecnormError, TypeError):
    """An argument's array library has no plugin, a broken plugin or two; or the arguments' libraries differ."""


class NoBackend(BackendError):
    """No installed plugin supports this array."""


class BrokenBackend(BackendError):
    """The plugin for this array cannot be used; its error is chained."""


class BackendConflict(BackendError):
    """Two installed distributions register a plugin for the same array library."""


class BackendVersion(BackendError):
    """A plugin was written for another version of specnorm's plugin interface."""


class MixedBackends(BackendError):
    """Arguments of one call are arrays of different libraries or on different devices."""


class Undecided(SpecnormError):
    """A statement could be neither proven nor refuted, because of rounding errors or the budget."""


class CertificateError(SpecnormError):
    """A certificate cannot be read, or cannot be written for this kernel or bound."""


class ModelFileError(SpecnormError):
    """A model file is unreadable, damaged, too large, or in an unsupported format."""


class TranslationError(MethodError):
    """The graph that a model was translated to does not compute the same as the model."""


class InternalError(SpecnormError):
    """The outputs of a network contradict a proven bound. This is a bug in specnorm; please report it.

    Parameters
    ----------
    message : str
    pair : tuple of mapping, optional
        The two inputs that contradict the bound; each maps names to arrays.
    """

    def __init__(self, message: str, pair: object = None) -> None:
        super().__init__(message)
        self.pair = pair


class SecondDerivativeError(SpecnormError, NotImplementedError):
    """A second derivative was requested; specnorm has first derivatives only."""


class LayoutWarning(UserWarning):
    """The axes of an array look like a kernel of Keras or Flax, and were read in torch's order: give ``layout``."""


class EstimateWarning(UserWarning):
    """The value of this call is an estimate or a lower bound, although the function returns more in other cases."""
