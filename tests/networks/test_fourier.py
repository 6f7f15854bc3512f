"""Networks that compute at frequencies are bounded as the circular convolutions that they are, or refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
import numpy as np  # noqa: E402
from networks.fourier_draws import drawn  # noqa: E402
from networks.torch_modules import Function  # noqa: E402
from specnorm_torch import certified_accuracy, network_bound, network_graph, nonexpansive  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from specnorm.errors import KernelError  # noqa: E402
from specnorm.networks import Layer, Measure, Multipliers, Product, bound, within  # noqa: E402

fft = torch.fft
COUNT = int(os.environ.get("SPECNORM_NETWORK_DRAWS", "800")) // 400


def truth(f: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> float:
    """Norm of an affine map in float64, by feeding it every basis vector."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    basis = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *zero.shape)
    with torch.no_grad():
        columns = torch.stack([f(x) - f(zero) for x in basis]).flatten(1).resolve_conj().numpy()
    return float(np.linalg.norm(np.concatenate([columns.real, columns.imag], 1), 2))


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    real, imaginary = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found: Tensor = torch.complex(real, imaginary)
    return found


def upper(f: Callable[[Tensor], Tensor], shape: tuple[int, ...], **options: Any) -> float:
    model = f if isinstance(f, nn.Module) else Function(f)
    found = network_bound(model, torch.zeros(1, *shape, dtype=torch.float64), **options)
    assert found.unknown == ()
    assert found.upper is not None
    return found.upper


def spectrum(kernel: Tensor, sizes: tuple[int, int], *, half: bool) -> Tensor:
    """Matrices of a circular convolution, (h, w, out, in)."""
    turn: Any = fft.rfft2 if half else fft.fft2
    found: Tensor = turn(kernel, sizes).permute(2, 3, 0, 1)
    return found


def layer(q: Tensor, *, half: bool, norm: str | None = None, by: str = "matmul") -> Callable[[Tensor], Tensor]:
    """Multiplies by a matrix at each frequency."""

    def f(x: Tensor) -> Tensor:
        there: Any = fft.rfft2 if half else fft.fft2
        z = there(x, norm=norm)
        b, _, h, w = z.shape
        if by == "einsum":
            y = torch.einsum("hwoi,bihw->bohw", q, z)
        elif by == "columns":
            y = (q.reshape(h * w, *q.shape[2:]) @ z.permute(2, 3, 1, 0).reshape(h * w, -1, b)).reshape(h, w, -1, b)
            y = y.permute(3, 2, 0, 1)
        elif by == "bmm":
            y = torch.bmm(z.flatten(2).movedim(2, 0).mT.mT.transpose(1, 2).mT, q.flatten(0, 1).mT)
            y = y.movedim(0, 2).unflatten(2, (h, w))
        else:
            y = (q @ z.permute(0, 2, 3, 1)[..., None])[..., 0].permute(0, 3, 1, 2)
        back: Tensor = fft.irfft2(y, x.shape[2:], norm=norm) if half else fft.ifft2(y, norm=norm).real
        return back

    return f


def together(functions: list[Callable[[Tensor], Tensor]], shape: tuple[int, ...]) -> list[float | None]:
    """Bounds of several functions, from one trace."""

    class All(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(f(x) for f in functions)

    found = network_bound(All(), torch.zeros(1, *shape, dtype=torch.float64))
    assert len(found.outputs) == len(functions), found
    return list(found.outputs.values())


@pytest.mark.parametrize("sizes", [(4, 5), (1, 6)])
def test_a_circular_convolution_at_its_frequencies_has_its_norm(sizes: tuple[int, int]) -> None:
    q = [spectrum(draw(3, 2, 2, 2).real, sizes, half=half) for half in (False, True)]
    ways: Any = (("matmul", True, None), ("einsum", False, "ortho"), ("columns", True, "forward"), ("bmm", True, None))
    functions = [layer(q[half], half=half, norm=norm, by=by) for by, half, norm in ways]
    for f, known in zip(functions, together(functions, (2, *sizes)), strict=True):
        assert known is not None
        assert 1 - 1e-12 <= known / truth(f, (2, *sizes)) <= 1 + 1e-6


def test_no_map_at_random_stretches_more_than_its_bound() -> None:
    shapes = [(2, 3, 4), (3, 5), (2, 4, 2), (1, 6)]
    close = 0
    for at in range(COUNT):
        shape = shapes[at % len(shapes)]
        functions = [drawn(6 * at + j) for j in range(6)]
        for f, known in zip(functions, together(functions, shape), strict=True):
            assert known is not None
            real = truth(f, shape)
            assert real <= known * (1 + 1e-10), (at, shape, real, known)
            close += known <= 1.0001 * real
    print(f"{6 * COUNT} maps, {close} bounds attained")  # noqa: T201 - shown by `pytest -rP`
    assert close >= COUNT


def _at(z: Tensor, to: int, count: int, more: int = 0, *, own: bool = False) -> Tensor:
    """Modes in some places of zeros, or of themselves; again behind those."""
    out = z.clone() if own else torch.zeros(*z.shape[:-1], 5, dtype=z.dtype)
    out[..., to : to + count] = z[..., 1 : 1 + count] if to else z[..., :count]
    if more:
        out[..., to + count : to + count + more] = z[..., 1 : 1 + more]
    return out


P = torch.eye(3, dtype=torch.complex128).roll(1, 0)
"""Puts the entries 0, 1, 2 of a one-sided spectrum of 4 numbers at 1, 2, 0."""
EIGHT = torch.arange(8.0, dtype=torch.float64).reshape(2, 2, 2)
EXACT: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], float]] = {
    **{f"back, {n}": (partial(fft.irfft, n=n), (4,), (2 / n if n > 2 else 1 / n) ** 0.5) for n in range(1, 7)},
    **{f"there, {n}": (partial(fft.rfft, n=n), (6,), n**0.5) for n in range(1, 7)},
    # What goes from an entry that counts once to one that counts twice is root of two times as long.
    "moved": (lambda x: fft.irfft(fft.rfft(x).roll(1, -1), 4), (4,), 2**0.5),
    "mixed from the left": (lambda x: fft.irfft((P @ fft.rfft(x)[..., None])[..., 0], 4), (4,), 2**0.5),
    "mixed from the right": (lambda x: fft.irfft(fft.rfft(x) @ P, 4), (4,), 2**0.5),
    "mixed by an equation": (lambda x: fft.irfft(torch.einsum("oi,bi->bo", P, fft.rfft(x)), 4), (4,), 2**0.5),
    "padded": (lambda x: fft.irfft2(fft.rfft2(x, (5, 6)), (5, 6)), (4, 3), 1.0),
    "cropped": (lambda x: fft.ifft2(fft.fft2(x, (3, 2))).real, (4, 3), 1.0),
    "axis by axis": (lambda x: fft.irfft2(fft.fft(fft.rfft(x, dim=-1), dim=-2), (4, 3)), (4, 3), 1.0),
    "the last axis first": (lambda x: fft.irfftn(fft.rfftn(x, dim=(3, 2)), (3, 4), dim=(3, 2)), (2, 4, 3), 1.0),
    "three axes": (lambda x: fft.irfftn(fft.rfftn(x, dim=(1, 2, 3)), (2, 4, 3), (1, 2, 3)), (2, 4, 3), 1.0),
    "centred": (lambda x: fft.ifft2(fft.ifftshift(fft.fftshift(fft.fft2(x)), dim=(0, 1, 2, 3))).real, (2, 4, 3), 1.0),
    "a filter": (lambda x: fft.irfft(fft.rfft(x) * torch.tensor([1, 3j, 2]), 4), (4,), 3.0),
    "divided": (lambda x: fft.ifft(fft.fft(x, norm="forward") / (3 + 4j)).real * 20, (4,), 1.0),
    "divided by numbers": (lambda x: fft.fft(x) / torch.tensor([2.0, -0.5, 1, 4]), (4,), 4.0),
    "shifted": (lambda x: fft.irfft(1j - fft.rfft(x), 4), (4,), 1.0),
    "modes into zeros": (lambda x: fft.irfft(_at(fft.rfft(x), 0, 2), 6), (6,), 1.0),
    "modes into higher ones": (lambda x: fft.irfft(_at(fft.rfft(x), 2, 1), 6), (6,), 1.0),
    "one mode twice": (lambda x: fft.irfft(_at(fft.rfft(x), 1, 1, 1), 8), (6,), 1.5**0.5),
    "into itself": (lambda x: fft.ifft(_at(fft.fft(x), 2, 2, own=True)).real, (4,), 2**0.5),
    "a spectrum": (lambda x: torch.view_as_real(fft.rfft2(x, norm="ortho")), (4, 3), 1.0),
    "real matrices": (
        lambda x: torch.einsum("hio,bhi->bho", torch.arange(8.0).double().reshape(2, 2, 2), x),
        (2, 2),
        11.22356,
    ),
    "a stack of two": (lambda x: x @ torch.stack([torch.eye(2), 3 * torch.eye(2)]).double(), (2, 2, 2), 3.0),
    "a stack": (lambda x: torch.bmm(x, 2 * torch.eye(2).double()[None]), (2, 2), 2.0),
}


def test_constants_of_single_steps_are_attained() -> None:
    for shape in {shape for _, shape, _ in EXACT.values()}:
        names = [name for name in EXACT if EXACT[name][1] == shape]
        for name, known in zip(names, together([EXACT[name][0] for name in names], shape), strict=True):
            f, _, wanted = EXACT[name]
            assert known == pytest.approx(wanted, rel=1e-5), name
            assert known is not None
            assert known >= truth(f, shape) * (1 - 1e-12), name


def test_the_symmetry_of_real_kernels_is_not_taken_for_granted() -> None:
    """Any matrices at each frequency: what the inverse leaves out counts no more than it is."""
    f = layer(draw(3, 3, 2, 3), half=True)
    assert 1 <= upper(f, (3, 3, 4)) / truth(f, (3, 3, 4)) <= 2


def test_a_transform_over_entries_that_weigh_more_and_less() -> None:
    """What it makes of them weighs as the least; the largest weight would claim too little."""

    def f(x: Tensor) -> Tensor:
        y: Tensor = fft.irfft(fft.fft(fft.rfft(x), norm="ortho"), 5)
        return y

    assert (4 / 5) ** 0.5 * 1.2 < truth(f, (4,)) * (1 - 1e-14) <= upper(f, (4,)) == pytest.approx((8 / 5) ** 0.5)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "absolute values": (lambda x: fft.rfft(x).abs(), "abs has no rule for such"),
    "a product": (lambda x: fft.irfft(fft.rfft(x) * fft.rfft(x), 4), "product of two values"),
    "a quotient": (lambda x: 1 / fft.rfft(x), "reciprocal has no rule"),
    "a quotient of two values": (lambda x: fft.rfft(x) / fft.rfft(x), "divides by a value"),
    "a product of matrices": (lambda x: fft.rfft(x).mT @ fft.rfft(x), "product of two values"),
    "an equation of two values": (lambda x: torch.einsum("bhc,bhc->bh", x, x), "product of two values"),
    "a sum of entries": (lambda x: fft.rfft(x).sum(), "sum has no rule for such"),
    "a sum": (lambda x: fft.rfft(x) + fft.rfft(x).flip(-1), "sums of complex values"),
    "a real value beside one": (lambda x: fft.fft(x) + x, "sums of complex values"),
    "repeated by a constant": (lambda x: fft.rfft(x)[:, :1] + torch.ones(3, 1) * 1j, "is repeated"),
    "repeated by a product": (lambda x: fft.rfft(x)[:, :1] * (torch.ones(3, 1) * 1j), "is repeated"),
    "repeated by matrices": (lambda x: x @ torch.ones(5, 1, 4, 2, dtype=x.dtype), "(5, 1, 4, 2)"),
    "a diagonal": (lambda x: torch.einsum("bii->bi", x[:, :, :3]), "equation bii->bi"),
    "a sum by an equation": (lambda x: torch.einsum("bhc,oh->bo", x, torch.ones(2, 3)), "equation bhc,oh->bo"),
    "an equation with dots": (lambda x: torch.einsum("...c,co->...o", x, torch.ones(4, 2)), "equation ...c,co->...o"),
    "one constant for several": (lambda x: torch.einsum("bhc,oc->bho", x, torch.ones(2, 1)), "equation bhc,oc->bho"),
    "a Hermitian transform": (lambda x: fft.hfft(x), "no Lipschitz constant"),
    "a function of the phase": (lambda x: fft.rfft(x).angle(), "angle has no rule"),
    "a comparison": (lambda x: fft.rfft(x) == 1, "bool: steps"),
    "pieces": (lambda x: torch.cat(fft.rfft(x).chunk(2, -1), -1), "split has no rule"),
}


def test_what_no_constant_was_derived_for_is_refused_by_name() -> None:
    class All(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(f(x) for f, _ in REFUSED.values())

    found = network_bound(All(), (3, 4))
    assert all(known is None for known in found.outputs.values())
    assert len(found.outputs) == len(found.unknown) == len(REFUSED)
    for (name, (_, word)), node in zip(REFUSED.items(), found.unknown, strict=True):
        assert word in node.reason, name


class Cayley(nn.Module):
    """Trockman & Kolter 2021, for real kernels of any size."""

    def __init__(self, sizes: tuple[int, int], *, half: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(draw(2, 2, 3, 3).real / 3), scale
        self.sizes, self.one_sided = sizes, half

    def forward(self, x: Tensor) -> Tensor:
        w = spectrum(self.weight, self.sizes, half=self.one_sided)
        a, eye = w - w.mH, torch.eye(2, dtype=w.dtype)
        q = self.scale * torch.linalg.solve(eye + a, eye - a)
        y: Tensor = layer(q, half=self.one_sided, by="columns")(x)
        return y


class Spectral(nn.Module):
    """As the authors of Fourier neural operators write it (Li et al. 2021): low modes into zeros."""

    def __init__(self, cin: int, cout: int, *modes: int, norm: str | None = None) -> None:
        super().__init__()
        self.modes, self.norm, self.out = modes, norm, cout
        self.weights = nn.ParameterList(draw(cin, cout, *modes, seed=at) for at in range(len(modes)))

    def forward(self, x: Tensor) -> Tensor:
        last, axes = self.modes[-1], "xy"[: len(self.modes)]
        z: Tensor = (fft.rfft if len(axes) == 1 else fft.rfft2)(x, norm=self.norm)
        out = torch.zeros(x.shape[0], self.out, *z.shape[2:], dtype=z.dtype)

        def product(part: Tensor, at: int) -> Tensor:
            found: Tensor = torch.einsum(f"bi{axes},io{axes}->bo{axes}", part, self.weights[at])
            return found

        if len(axes) == 1:
            out[:, :, :last] = product(z[:, :, :last], 0)
        else:
            first = self.modes[0]
            out[:, :, :first, :last] = product(z[:, :, :first, :last], 0)
            out[:, :, -first:, :last] = product(z[:, :, -first:, :last], 1)
        y: Tensor = fft.irfftn(out, x.shape[2:], tuple(range(2, x.ndim)), norm=self.norm)
        return y


SPECTRAL: Any = [
    ((16,), (5,), None, 1.001), ((15,), (8,), "forward", 1.1), ((6,), (1,), None, 1.5), ((8, 8), (3, 3), None, 1.1),
    ((6, 7), (2, 4), "ortho", 1.2), ((6, 5), (4, 2), None, 1.5),
]  # fmt: skip
"""Sizes, modes, norm; how far off a bound may be. In the last one the second corner overwrites a part of the first."""


@pytest.mark.parametrize(("sizes", "modes", "norm", "factor"), SPECTRAL)
def test_spectral_convolutions_have_the_norm_of_their_modes(sizes: Any, modes: Any, norm: Any, factor: float) -> None:
    model, shape = Spectral(2, 3, *modes, norm=norm), (2, *sizes)
    known, real = upper(model, shape), truth(model, shape)
    assert 1 - 1e-12 <= known / real <= factor


class Operator(nn.Module):
    """A small Fourier neural operator: a grid beside the input, layers of modes and points, cropped again."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 2), nn.Linear(2, 1)
        self.modes = nn.ModuleList(Spectral(2, 2, 2, 2) for _ in range(2))
        self.points = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        along = torch.linspace(0, 1, 5, dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(along, along, indexing="ij"), -1).repeat(len(x), 1, 1, 1)
        y = nn.functional.pad(self.enter(torch.cat((x, grid), -1)).permute(0, 3, 1, 2), [0, 1, 0, 1])
        for modes, points in zip(self.modes, self.points, strict=True):
            y = nn.functional.gelu(modes(y) + points(y))
        found: Tensor = self.leave(y[..., :-1, :-1].permute(0, 2, 3, 1))
        return found


def test_a_fourier_neural_operator_has_a_constant() -> None:
    torch.manual_seed(0)
    model = Operator().double()
    method = Multipliers(steps=3)
    everywhere = network_bound(model, (5, 5, 1), method=method)
    assert everywhere.upper is not None
    assert everywhere.checked.complete
    x = draw(1, 5, 5, 1).real
    near = network_bound(model, x, radius=0.1, method=method).upper
    boxed = bound(within(network_graph(model, (5, 5, 1)), -1, 1), method=Product()).upper
    steep = torch.linalg.matrix_norm(torch.autograd.functional.jacobian(model, x).reshape(25, 25), 2)
    for known in (everywhere.upper, near, boxed):
        assert known is not None
        assert float(steep) <= known <= (everywhere.product or 0.0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Cayley((6, 5)), nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.second.weight.data = draw(2, 2, 3, 3, seed=5).real.float()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)))
        z: Tensor = x + self.second(torch.relu(y)) + y
        return z


def test_in_networks() -> None:
    """Beside functions, layers and sums, by each method, in a ball and in a box."""
    model, shape = Residual().double(), (2, 6, 5)
    found = network_bound(model, shape, method=Multipliers(steps=5))
    assert found.upper is not None
    assert found.product is not None
    with torch.no_grad():
        second = np.linalg.norm(
            torch.autograd.functional.jacobian(model.second, torch.zeros(1, *shape, dtype=torch.float64))
            .reshape(60, 60).numpy(), 2,
        )  # fmt: skip
    assert found.product == pytest.approx(1 + second + second**2, rel=2e-3)
    x = draw(1, *shape).real
    near = network_bound(model, x, radius=0.1, method=Multipliers(steps=5)).upper
    boxed = bound(within(network_graph(model, shape), 0, 1)).upper
    real = float(np.linalg.norm(torch.autograd.functional.jacobian(model, x).reshape(60, 60).numpy(), 2))
    for known in (found.upper, near, boxed):
        assert known is not None
        assert real <= known <= found.product


def test_orthogonal_layers_are_proven_to_be_so() -> None:
    """By a hair under 1, and refuted by a hair above; a batch of samples is as one."""
    for half in (True, False):
        found = nonexpansive(Cayley((6, 5), half=half, scale=1 - 1e-9).double(), (2, 6, 5))
        assert found.proven is True
        assert found.reached == pytest.approx(1, rel=1e-6)
    left = nonexpansive(Cayley((6, 5)).double(), (2, 6, 5), residual=True)
    assert left.bound.upper == pytest.approx(2, rel=1e-9)
    assert nonexpansive(Cayley((6, 5), scale=1.01).double(), (2, 6, 5)).proven is False
    three = torch.zeros(3, 2, 6, 5, dtype=torch.float64)
    assert network_bound(Cayley((6, 5)).double(), three).upper == pytest.approx(1, rel=1e-12)


def test_certified_accuracy_of_a_classifier() -> None:
    head = nn.Linear(32, 3)
    model = nn.Sequential(Cayley((4, 4)), nn.ReLU(), nn.Flatten(), head).double()
    x = draw(5, 2, 4, 4).real
    found = certified_accuracy(model, x, model(x).argmax(1), [0.0, 1e-3, 100.0])
    assert list(found.accuracy[[0, 2]]) == [1.0, 0.0]
    rows = head.weight.detach().numpy()
    gap = float(np.linalg.norm(rows[0] - rows[1]))
    assert found.margins.upper[0, 1] == pytest.approx(gap, rel=1e-9)


def test_complex_inputs_are_not_held() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return x + z.real

    found = network_bound(Sum(), (torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.complex64)))
    assert found.upper is None
    assert "make its real and imaginary parts the input" in found.unknown[0].reason


def norms_of(stack: Any) -> float:
    return Measure().matrices(Layer("w", lambda: stack, {}, 0)).value


def test_norms_of_stacks_of_matrices() -> None:
    """Proven: never below, at any scale; and close."""
    rng = np.random.default_rng(0)
    for shape in ((5, 3, 4), (7, 1, 1), (2, 6, 2, 2), (3, 1, 5, 2), (1, 4, 4, 2)):
        a = rng.normal(size=shape)
        dense = a[..., 0] + 1j * a[..., 1] if len(shape) == 4 else a
        real = float(np.linalg.norm(dense, 2, axis=(-2, -1)).max())
        for scale in (1.0, 2.0**-900, 2.0**900):
            found = norms_of(a * scale) / scale
            assert real * (1 - 1e-14) <= found <= real * (1 + 1e-12)
    assert norms_of(np.zeros((3, 2, 2))) == 0.0
    assert norms_of(np.zeros((0, 2, 2))) == 0.0
    with pytest.raises(KernelError, match="non-finite"):
        norms_of(np.full((1, 2, 2), np.nan))
