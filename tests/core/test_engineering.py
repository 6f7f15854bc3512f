"""What makes it fast, looked at where it happens: which products and programs, how much at once. No clocks."""

from __future__ import annotations

import gc
import re
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.checks import calls, peak
from helpers.real_weights import real_kernel

import specnorm
from specnorm import backends
from specnorm.backends.types import ArrayOps
from specnorm.methods import METHODS, ExactFFT, FantasticFour, Gram, Grid, Method, Power, TensorNorm
from specnorm.running import program as programs
from specnorm.running.base import Plan
from specnorm.running.program import Program, program_for
from specnorm.unfoldings.matrices import MatrixNorm

CIRCULAR: dict[str, Any] = {"padding_mode": "circular"}
CALLS = 5850
"""Most calls of a search with 16 channels; NumPy's versions differ by some.

5,333 until the Newton step of frequencies was shared with `SymbolNorm`: written for every library it takes 360 calls
more, and no more time (0.29 s for 0.32 s, fourteen kernels).
"""


def test_few_frequencies_of_three_axes_are_looked_at() -> None:
    """At 32 pixels an axis 17,408 were, one by one, and as many again for a tolerance of 1e-6."""
    kernel = np.random.RandomState(0).randn(6, 6, 3, 3, 3)
    found = specnorm.measure(kernel, ExactFFT(), input_shape=32, **CIRCULAR)
    assert int(found.stats["frequencies"]) < 8000


def test_memory_follows_the_budget_and_not_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """At n = 1024 all symbols of this kernel would take 134 MB; a chunk keeps to its budget, whatever that is."""
    kernel, budget = Recipe((4, 4, 3, 3), seed=4).kernel, 2**22
    monkeypatch.setattr(ArrayOps, "memory", budget)
    frequencies = 1024 * 513
    found = peak(lambda: specnorm.gram_bound(kernel, 1024, n_iter=1, **CIRCULAR))
    # Two integers for each frequency, and copies while they are made.
    assert found < 3 * 16 * frequencies + budget
    assert found < 16 * kernel[..., 0, 0].size * frequencies / 4


BACKWARDS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "grid": (Grid(n=5), {}), "gram, circular": (Gram(), {"input_shape": 8, **CIRCULAR}), "gram": (Gram(), {}),
    "gram, two products": (Gram(n_iter=2), {}), "fft": (ExactFFT(), {"input_shape": 8, **CIRCULAR}),
    "power": (Power(n_iter=4), {"input_shape": 8, **CIRCULAR}), "matrix norm": (MatrixNorm(), {}),
}  # fmt: skip


def kernels_of_memory(plan: Plan, kernel: np.ndarray, geometry: dict[str, Any]) -> tuple[float, float]:
    """Peak of the backward, and what is held for it, over the kernel's own size."""
    program = program_for(plan, kernel.shape, str(kernel.dtype), tuple(geometry.items()))
    backend = backends.load("numpy")
    ran = program.forward(kernel, backend=backend)
    ones = np.ones_like(ran.value)
    program.pullback(ran.residuals, ones, backend=backend)
    found = peak(lambda: program.pullback(ran.residuals, ones, backend=backend))
    return found / kernel.nbytes, sum(x.nbytes for x in ran.residuals) / kernel.nbytes


@pytest.mark.parametrize("name", BACKWARDS)
def test_the_backward_of_a_bound_needs_the_memory_of_three_kernels(name: str) -> None:
    """The gradient included, which is one; and not more than that is kept for it."""
    plan, geometry = BACKWARDS[name]
    shape = (64, 64, 3, 3) if name in METHODS or "," in name else (400, 400)
    kernel = Recipe(shape, dtype="float32", seed=6).kernel
    backward, held = kernels_of_memory(plan, kernel, geometry)
    assert backward < 3.01
    assert held < 2


MEMORY: dict[str, Callable[[np.ndarray], object]] = {
    # Differentiating through 100 sweeps held 200 times the kernel; an envelope needs the vectors of the last one.
    "gradient of tn": lambda k: specnorm.value_and_grad(k, TensorNorm()),
    "gradient of f4": lambda k: specnorm.value_and_grad(k, FantasticFour()),
    # The FFT grid of one layer held 2.8 to 4.8 GB.
    "fft": lambda k: specnorm.measure(k, ExactFFT(), input_shape=32),
    "gram at a size": lambda k: specnorm.measure(k, Gram(n_iter=2), input_shape=32),
    # Patches, a Krylov basis, the taps of three products: each is made in parts.
    "gram": specnorm.gram_bound,
    "power": lambda k: specnorm.power_norm(k, 24, padding_mode="zeros", n_iter=6),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_of_a_call(name: str) -> None:
    """The budget of a search is 256 MiB whatever the kernel; of gradients it is large enough to tell the two apart."""
    layer, of_gradient = Recipe((64, 48, 3, 3), dtype="float32", seed=1), name.startswith("gradient")
    kernel = (Recipe((256, 256, 3, 3), "rank_one", seed=1) if of_gradient else layer).kernel
    assert not of_gradient or 200 * kernel.nbytes > 2 * 300 * 2**20
    assert peak(lambda: MEMORY[name](kernel)) < 300 * 2**20


def test_a_search_of_a_small_kernel_makes_few_calls() -> None:
    """Of functions, Python's and C's: with 16 channels they are what it takes; 7,250 before."""
    kernel = real_kernel("resnet20", "layer1.0.conv1")
    specnorm.enclose(kernel)
    assert 1000 < calls(lambda: specnorm.enclose(kernel), ("call", "c_call")) < CALLS


def test_a_shape_is_traced_once_by_jax(jax: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another function under `jit` runs what was traced before for the shape; another shape does not."""
    traced = 0

    def counted(self: Any, *given: Any, forward: Any = FantasticFour.forward, **named: Any) -> Any:
        nonlocal traced
        traced += 1
        return forward(self, *given, **named)

    monkeypatch.setattr(FantasticFour, "forward", counted)

    def run(shape: tuple[int, ...], seed: int) -> int:
        kernel = jax.numpy.asarray(Recipe(shape, seed=seed, dtype="float32").kernel)
        jax.jit(lambda x: specnorm.f4_bound(x))(kernel)
        return traced

    first = run((3, 2, 3), 10)
    assert run((3, 2, 3), 11) == first > 0
    assert run((2, 3, 3), 12) > first


def test_one_version_and_the_recipes_dependencies() -> None:
    """pyproject.toml, citation, conda recipe, README and changelog agree; what is not released has no date."""
    root = Path(__file__).parents[2]
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    version = pyproject["tool"]["hatch"]["version"]["fallback-version"]
    recipe = (root / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    assert f'  version: "{version}"\n' in recipe
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {version}\n" in citation
    changes = (root / "docs" / "changelog.md").read_text(encoding="utf-8")
    latest = re.search(r"^## (.+)$", changes, re.MULTILINE)
    assert latest is not None
    is_released = "dev" not in version
    assert ("date-released" in citation) == is_released
    assert ("is not released yet" in (root / "README.md").read_text(encoding="utf-8")) != is_released
    if is_released:
        dated = re.fullmatch(r"(\S+) \((\d{4}-\d{2}-\d{2})\)", latest[1])
        assert dated is not None
        assert dated[1] == version
        assert f"date-released: {dated[2]}\n" in citation
    else:
        assert latest[1] == "Unreleased"
    for needed in (f"python{project['requires-python']}", *project["dependencies"]):
        assert f"- {needed.replace('>=', ' >=')}\n" in recipe
    assert f"specnorm = {project['scripts']['specnorm']}\n" in recipe


def test_the_readme_of_the_metadata_has_no_relative_links() -> None:
    """Links are absolute at the version's tag with a repository, and text without one."""
    root = Path(__file__).parents[2]
    published: Any = runpy.run_path(str(root / "hatch_build.py"))["published"]
    readme = (root / "README.md").read_text(encoding="utf-8")
    target = re.compile(r"\]\(([^)]*)\)")
    assert len(target.findall(readme)) > 20
    assert target.findall(published(readme, "", "1.2")) == []
    repository = "https://example.org/a/b"
    for address in target.findall(published(readme, repository, "1.2")):
        way, _, path = address.removeprefix(f"{repository}/").partition("/v1.2/")
        assert way == ("raw" if path.endswith(".svg") else "blob")
        assert (root / path.partition("#")[0]).exists(), address


# -- program identity ------------------------------------------------------------------------------------------------
SHAPE = (4, 3, 3, 3)


def planned(method: Method | None = None, dtype: str = "float64", **geometry: Any) -> Program:
    return program_for(method or Gram(), SHAPE, dtype, tuple(geometry.items()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"input_shape": 8}, {"input_shape": (8, 8)}), ({"input_shape": [8, 8]}, {"input_shape": (8, 8)}),
        ({"padding": "same"}, {"padding": ((1, 1), (1, 1))}), ({"padding": 1}, {}),
        ({"stride": 2, "groups": 1}, {"groups": 1, "stride": (2, 2)}), ({"layout": "OIHW"}, {"layout": None}),
    ],
    ids=str,
)  # fmt: skip
def test_one_problem_has_one_program(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert planned(**one) is planned(**other)
    assert planned(dtype="torch.float64", **one) is planned(**other)
    assert planned(Gram(n_iter=4), **one) is not planned(**other)
    assert planned(dtype="float32", **one) is not planned(**other)


def test_programs_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that changes at every call makes a new program each time: the old ones go."""
    monkeypatch.setattr(programs, "LIMIT", 8)
    kept = planned(input_shape=5)
    kernel = np.cos(np.arange(108.0)).reshape(SHAPE)
    gc.collect()
    before = len(programs._alive)  # other tests' objects hold some
    for j in range(24):
        assert specnorm.certify(kernel, 100.0 + j)
    gc.collect()
    uncounted = len(programs._compiled)
    assert len(programs._programs) <= 8 + uncounted
    assert len(programs._keys) <= 8
    assert len(programs._alive) <= before + 8 + uncounted
    assert programs.program(kept.key) is kept  # held by this test
    assert planned(input_shape=5) is kept


def test_the_versions_that_the_page_states_are_those_that_are_installed() -> None:
    """Oldest versions are those of pyproject.toml, tested ones those of constraints.txt and of the sessions of nox."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (root / "docs" / "backends.md").read_text(encoding="utf-8")
    sessions = (root / "noxfile.py").read_text(encoding="utf-8")
    rows = {cells[1]: cells[2:-1] for line in page.splitlines() if len(cells := line.split("|")) > 5}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    needed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    libraries = ("numpy", "torch", "jax", "cupy-cuda13x")
    oldest = [each.partition(">=")[2] for name in libraries for each in needed if each.startswith(f"{name}>=")]
    assert rows["oldest version"] == oldest
    pinned = re.findall(r'"(?:numpy|jax)==([^"]+)"', sessions)
    torch = re.findall(r"^torch==(.+)$", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows["tested versions"][:3] == [f"{pinned[0]}, the latest", *torch, f"{pinned[1]}, the latest"]
    others = re.findall(r'"([\d.t]+)"', re.findall(r"^OTHER_PYTHONS = (.*)$", sessions, re.MULTILINE)[0])
    own = re.findall(r'^PYTHON = "(.*)"$', sessions, re.MULTILINE)[0]
    assert f"on Python {own}, and with NumPy on {', '.join(others[:-1])} and {others[-1]}." in page
