"""Conformance tests for authors of plugins: call ``check_backend(BACKEND)`` in a test. No test framework is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from specnorm.backends.types import Backend
from specnorm.testing import answers, arrays
from specnorm.testing.trial import DTYPES, FUNCTIONS, Trial

__all__ = ["CHECKS", "DTYPES", "FUNCTIONS", "Trial", "check_backend"]


def check_backend(backend: Backend, *, device: str | None = None) -> None:
    """Test a plugin against the interface `specnorm.plugin.Backend`.

    Parameters
    ----------
    backend : Backend
        The registered object. Its distribution must be installed, so that specnorm finds the plugin for its arrays.
    device : str, optional
        The device, one of ``backend.devices()``; None: the library's default device.

    Raises
    ------
    AssertionError
        With a list of all failures, in the order of `CHECKS`.

    Examples
    --------
    >>> import specnorm_numpy
    >>> check_backend(specnorm_numpy.BACKEND)
    """
    trial = Trial(backend, device)
    problems: list[str] = []
    cause: Exception | None = None
    for title, check in CHECKS.items():
        try:
            check(trial)
        except AssertionError as error:
            problems.append(f"{title}: {error}")
        except Exception as error:
            problems.append(f"{title}: {type(error).__name__}: {error}")
            cause = cause or error
        if problems and title in _FOUNDATIONS:
            problems.append("the other checks were left out: they build on this one")
            break
    if problems:
        name = getattr(backend, "name", type(backend).__name__)
        raise AssertionError("\n  - ".join([f"backend {name!r} breaks its promises:", *problems])) from cause


CHECKS: Mapping[str, Callable[[Trial], None]] = {
    "description": arrays.check_description,
    "ownership": arrays.check_ownership,
    "namespace": arrays.check_namespace,
    "host copies": arrays.check_host_copies,
    "device": arrays.check_device,
    "precision": arrays.check_precision,
    "complex": arrays.check_complex,
    "loop": arrays.check_loop,
    "places": arrays.check_places,
    "cholesky_ok": arrays.check_cholesky,
    "values": answers.check_values,
    "gradients": answers.check_gradients,
    "stacks": answers.check_stacks,
    "complex kernels": answers.check_complex_kernels,
    "refusals": answers.check_refusals,
}
"""All checks by name, in their order."""

_FOUNDATIONS = ("description", "ownership", "namespace", "host copies")
"""Checks without whose success the later ones are not run."""
