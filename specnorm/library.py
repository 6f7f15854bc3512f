"""The plugin interface: what one array library does differently. This file names no framework and imports none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from specnorm.registry import load
from specnorm.types import AnyArray, Library

if TYPE_CHECKING:
    import numpy as np

    from specnorm.runtime.program import Program, Ran


class LayerKernel(NamedTuple):
    """What a framework's own layer computes, bias and activation apart.

    Parameters
    ----------
    kernel : array
    geometry : mapping
        Keyword arguments, see `specnorm.problem.spec.Layer`.
    as_stored : bool
        Whether the kernel's axes are in the layer's own order, so that another kernel could be put in its place.
    """

    kernel: AnyArray
    geometry: Mapping[str, Any]
    as_stored: bool = True


class Backend(Library):
    """What one array library does differently. Plugins derive from it and override what applies.

    Only `name`, `framework`, `is_array`, `namespace`, `version`, `asarray`, `to_numpy` and `cholesky_ok` must be given:
    the rest has defaults that suit an eager library without automatic differentiation. `specnorm.testing.check_backend`
    tells whether a plugin keeps what this interface promises.
    """

    framework: ClassVar[str]
    """Root module the plugin needs, to tell a missing framework from a broken plugin."""
    api_version: ClassVar[int]
    """The `API_VERSION` the plugin was written for: state the number."""

    # -- which arrays are ours ----------------------------------------------------------------------------------
    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an array (not merely an object defined in the framework)."""
        raise NotImplementedError

    def refusal(self, x: AnyArray) -> str | None:
        """Why an array of this library cannot be used (masked, sparse, distributed...), or None."""
        return None

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        """Kernel and geometry of a layer of the frameworks built on this library; None: it is none.

        Parameters
        ----------
        x : object
        input_shape : int or sequence of int, optional
            Spatial input sizes, where they decide the padding.

        Raises
        ------
        GeometryError
            If it is a layer that cannot be put in such words.
        """
        return None

    # -- where and how to compute -------------------------------------------------------------------------------
    def devices(self) -> Sequence[str]:
        """Names of the devices present, for ``specnorm backends``."""
        return ("cpu",)

    def version(self) -> str:
        """Version of the framework."""
        raise NotImplementedError

    # -- host ----------------------------------------------------------------------------------------------------
    def asarray(self, x: np.ndarray, device: str | None = None) -> AnyArray:
        """Copy a host array to one of `devices`, or to the default one; dtype kept where the library has it."""
        raise NotImplementedError

    def host(self) -> Backend:
        """Backend that computes on the host: NumPy's."""
        return cast("Backend", load("numpy"))

    def as_proven(self, x: AnyArray) -> AnyArray:
        """A bound as a proof returns it; without a gradient where the library warns of reading a value that has one."""
        return x

    # -- differentiation -------------------------------------------------------------------------------------------
    def apply(self, program: Program, kernels: AnyArray) -> Ran:
        """Run a program and register its pullback where the library differentiates.

        Parameters
        ----------
        program : Program
        kernels : array, shape (*batch, *shape)

        Returns
        -------
        Ran
            Of which the residuals are nobody's; without claims where a compiler runs the program.
        """
        return program.forward(kernels, backend=self)

    def value_and_grad(self, program: Program, kernel: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Value of a program with one value and its gradient, without the library's own differentiation.

        Parameters
        ----------
        program : Program
        kernel : array, shape (*shape)

        Returns
        -------
        value : 0-d array
        gradient : array, shape (*shape)
        """
        ran = program.forward(kernel, backend=self)
        ones = self.namespace(kernel).ones_like(ran.value)
        return ran.value, program.pullback(ran.residuals, ones, backend=self)

    def init(self, program: Program, kernels: AnyArray) -> tuple[AnyArray, ...]:
        """Training state of a program for kernels (*batch, *shape), not differentiated."""
        return program.init(self.detach(kernels), backend=self)

    def step(
        self, program: Program, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int
    ) -> tuple[AnyArray, tuple[AnyArray, ...]]:
        """Take a training step of a program, and attach its gradient where the library differentiates.

        Parameters
        ----------
        program : Program
        kernels : array, shape (*batch, *shape)
        state : tuple of arrays
            With leading axes batch.
        sweeps : int

        Returns
        -------
        value : array, shape batch
        state : tuple of arrays
            Not differentiated.
        """
        still = tuple(self.detach(x) for x in state)
        value, gradient, state = program.step(self.detach(kernels), still, sweeps=sweeps, backend=self)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), state

    def without_derivative(self, value: AnyArray, x: AnyArray, reason: str) -> AnyArray:
        """Return ``value``, computed of ``x``; differentiating it raises `MethodError` with this reason."""
        return value

    def first_order(self, x: AnyArray) -> AnyArray:
        """Return ``x``, differentiable once: a second derivative raises instead of being zero."""
        return x
