"""Where a library cannot do what specnorm promises, in one table: these tests are expected to fail, strictly.

A gap that closes fails the run until its row goes. `docs/backends.md` tells users the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Gap:
    """One known gap.

    Parameters
    ----------
    backend : str
        Name of the plugin.
    versions : str
        Of the library, with which it was seen.
    what : str
        What a user meets.
    why : str
        The reason, upstream or ours.
    test : str
        Id of the test that is expected to fail.
    raises : type or tuple of types
        How that test fails.
    """

    backend: str
    versions: str
    what: str
    why: str
    test: str
    raises: type[BaseException] | tuple[type[BaseException], ...]

    @property
    def expected(self) -> pytest.MarkDecorator:
        """Mark for the test."""
        return pytest.mark.xfail(reason=f"{self.what}: {self.why}", raises=self.raises, strict=True)


KNOWN_GAPS: dict[str, Gap] = {
    "compiled vmap of a gradient through an intermediate": Gap(
        backend="torch",
        versions="2.13",
        what="torch.compile(vmap(grad(lambda k: f(2 * k)))) raises InternalTorchDynamoError",
        why="Dynamo cannot trace an autograd.Function on an intermediate inside vmap(grad). Loud, and only where all "
        "three meet: compile(grad), compile(vmap) and vmap(grad) work, and so does compile(vmap(grad(f)))",
        test="tests/test_compiled_torch.py::test_compiled_vmap_of_grad_through_an_intermediate",
        raises=Exception,
    ),
    "batched gradients of several values": Gap(
        backend="torch",
        versions="2.13",
        what="torch.autograd.functional.jacobian(singular_values, vectorize=True) raises RuntimeError",
        why="vectorize=True and is_grads_batched=True use torch's older vmap, which has no rule for swapping axes. "
        "torch.func.jacrev works",
        test="tests/test_autodiff_torch.py::test_vectorised_jacobian_of_singular_values",
        raises=RuntimeError,
    ),
    "second derivative under the debugging compiler": Gap(
        backend="torch",
        versions="2.13",
        what='torch.compile(backend="eager") gives second derivatives without the specnorm term instead of raising',
        why="this debugging backend runs the traced graph in autograd, where Dynamo has inlined the guard. Those meant "
        'for use ("inductor", the default, and "aot_eager") raise',
        test="tests/test_compiled_torch.py::test_second_derivative_under_the_debugging_compiler",
        raises=pytest.fail.Exception,
    ),
}
"""By what a user would call it."""
