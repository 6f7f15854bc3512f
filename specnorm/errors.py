"""Everything specnorm raises on purpose. Each message says what was given, what was expected and what to do."""

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
    "MethodError",
    "MixedBackends",
    "ModelFileError",
    "NoBackend",
    "SecondDerivativeError",
    "SpecnormError",
    "TranslationError",
    "Undecided",
]


class SpecnormError(Exception):
    """Base of every error raised by specnorm itself."""


class KernelError(SpecnormError, ValueError):
    """The kernel itself cannot be measured: wrong rank, dtype, an empty axis, a non-finite value."""


class GeometryError(SpecnormError, ValueError):
    """The geometry (stride, groups, padding, input_shape, layout, ...) does not fit the kernel."""


class MethodError(SpecnormError, ValueError):
    """The method cannot serve this request; the message names one that can."""


class BackendError(SpecnormError, TypeError):
    """The array library behind an argument is missing, broken, ambiguous or mixed."""


class NoBackend(BackendError):
    """No installed plugin owns this array."""


class BrokenBackend(BackendError):
    """A plugin is registered for this array but cannot be used; the original error is chained."""


class BackendConflict(BackendError):
    """Two installed distributions claim the same array library."""


class BackendVersion(BackendError):
    """A plugin was written for another version of specnorm's plugin interface."""


class MixedBackends(BackendError):
    """Arguments of one call live in different libraries or on different devices."""


class Undecided(SpecnormError):
    """A certificate could be neither proved nor refuted within rounding or the budget."""


class CertificateError(SpecnormError):
    """A certificate cannot be read, or there is none of a kernel or a bound."""


class ModelFileError(SpecnormError):
    """A model file is unreadable, damaged, too large, or of a kind that is refused."""


class TranslationError(MethodError):
    """A network was translated into a graph that does not compute what the model computes."""


class InternalError(SpecnormError):
    """A proven number was contradicted by an execution: an error of specnorm, to be reported.

    Parameters
    ----------
    message : str
    pair : tuple of mapping, optional
        The inputs, by name.
    """

    def __init__(self, message: str, pair: object = None) -> None:
        super().__init__(message)
        self.pair = pair


class SecondDerivativeError(SpecnormError, NotImplementedError):
    """A second derivative was asked for: specnorm's pullbacks are first order only."""


class EstimateWarning(UserWarning):
    """A value that is a proven bound elsewhere is only an estimate here."""
