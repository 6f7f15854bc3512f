"""What the comparison of a graph with its model lets pass, and what it must: honest networks, in every precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from networks.published import NETWORKS  # noqa: E402
from networks.torch_modules import Function  # noqa: E402
from specnorm_networks import network_bound, network_graph  # noqa: E402
from specnorm_networks.comparison.checking import check  # noqa: E402
from specnorm_networks.model import Checked  # noqa: E402
from torch import nn  # noqa: E402

from specnorm.errors import MethodError, TranslationError  # noqa: E402

DRAWN = 300
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def compared(model: Any, shape: tuple[int, ...]) -> Checked:
    """The comparison alone; raises where it refuses."""
    graph = network_graph(model, shape)
    return check(graph, graph)


# -- batch normalisation, in every state -----------------------------------------------------------------------------
def fresh(norm: Any, rng: np.random.Generator) -> None:
    del norm, rng


def as_trained(norm: Any, rng: np.random.Generator) -> None:
    """Statistics and scales over some orders of magnitude, as trained networks have them."""
    n = norm.num_features
    fill(norm, 10 ** rng.uniform(-2.5, 0.5, n), 0.5 * rng.normal(size=n), 10 ** rng.uniform(-3.5, 0, n),
         0.3 * rng.normal(size=n))  # fmt: skip


def cancelling(norm: Any, rng: np.random.Generator) -> None:
    """The bias is the mean times the scale, nearly."""
    n = norm.num_features
    v = 10 ** rng.uniform(-2, 1, n)
    m = 10 ** rng.uniform(0, 2, n) * rng.choice([-1, 1], n)
    w = rng.normal(size=n)
    fill(norm, v, m, w, m * w / np.sqrt(v + norm.eps) * (1 + 1e-3 * rng.normal(size=n)))


def without_spread(norm: Any, rng: np.random.Generator) -> None:
    n = norm.num_features
    fill(norm, np.where(rng.uniform(size=n) < 0.5, 0.0, 1e-12), rng.normal(size=n),
         1e-3 * rng.normal(size=n) * rng.integers(0, 2, n), rng.normal(size=n))  # fmt: skip


STATES = (fresh, as_trained, cancelling, without_spread)


def fill(norm: Any, variance: Any, mean: Any, scale: Any, bias: Any) -> None:
    for at, value in (
        (norm.running_var, variance), (norm.running_mean, mean), (norm.weight, scale), (norm.bias, bias)
    ):  # fmt: skip
        at.data.copy_(torch.tensor(value))


def drawn(number: int) -> Any:
    """A chain of convolutions, batch norms and activations, in a stored precision and a state."""
    rng = np.random.default_rng(number)
    torch.manual_seed(number)
    width = int(rng.choice([3, 8, 16]))
    depth = int(rng.integers(2, 18))
    activation: Any = [nn.ReLU, nn.GELU, nn.SiLU, lambda: nn.LeakyReLU(0.1)][rng.integers(4)]
    layers: list[Any] = []
    for at in range(depth):
        norm = nn.BatchNorm2d(width, eps=float(rng.choice([1e-5, 1e-3])))
        STATES[(number + at // 4) % len(STATES)](norm, rng)
        conv = nn.Conv2d(width if at else 1, width, 3, padding=1, bias=bool(rng.integers(2)))
        nn.init.kaiming_normal_(conv.weight)
        layers += [conv, norm, activation()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1)).to(DTYPES[number % 3])


@pytest.mark.parametrize("number", range(DRAWN))
@pytest.mark.sampled(100)
def test_no_honest_network_is_refused(number: int) -> None:
    assert compared(drawn(number), (1, 8, 8)).complete


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.nightly
def test_networks_of_the_pages_are_compared_as_users_load_them(name: str) -> None:
    """In float32; ResNet-20 was refused: 1.49 times what rounding was thought to make."""
    build, shape = NETWORKS[name]
    model = build()
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert compared(model, shape).complete


def test_numbers_of_a_module_in_double_precision_may_be_rounded_in_its_file() -> None:
    """It was refused: its file has 0.1 in single precision."""
    module = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), Function(lambda x: 0.1 * x + 0.7)).double()
    assert compared(module, (3,)).complete


def test_an_operator_that_insists_on_single_precision_is_said_so() -> None:
    @torch.library.custom_op("tests::single", mutates_args=())  # type: ignore[untyped-decorator]
    def single_alone(x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        if x.dtype != torch.float32:
            raise RuntimeError("not implemented for 'Double'")
        return x.clone()

    single_alone.register_fake(torch.empty_like)
    found = compared(nn.Sequential(nn.Linear(3, 4), Function(lambda x: single_alone(x).relu())), (3,))
    assert found.inputs
    assert not found.in_double
    assert "in the model's own precision: " in str(found)


def test_a_small_mistake_in_a_wide_layer_is_noticed() -> None:
    """Worst roundings of 4096 terms in single precision hid it."""
    torch.manual_seed(0)
    module = nn.Linear(4096, 2)
    graph = network_graph(module, (4096,))
    with torch.no_grad():
        module.weight.mul_(1 + 1e-4)
    with pytest.raises(TranslationError, match="the allowed difference"):
        check(graph, graph)


# -- constants ---------------------------------------------------------------------------------------------------------
def test_what_could_not_be_compared_is_said_so() -> None:
    assert "0 values agree, 1 could not be compared." in str(Checked(inputs=3, missed=("y",)))


def test_thresholds_are_those_of_the_model() -> None:
    """1e-50 is 0 in single precision, and was read through it: 3 was claimed of a function that jumps by 2e-50."""
    small = Function(lambda x: torch.where(x > 1e-50, x, 3 * x))
    example = torch.zeros(1, 4, dtype=torch.float64)
    x = torch.tensor([[1e-50], [1e-50 * (1 + 4e-16)]], dtype=torch.float64)
    assert (small(x)[0] - small(x)[1]).item() > 1e15 * (x[1] - x[0]).item()
    with pytest.raises(MethodError, match="becomes 0 in an ONNX file"):
        network_bound(small, example)


# -- a claim needs an execution ------------------------------------------------------------------------------------
def refuses(counts: Callable[[int], bool], f: Callable[[Any], Any]) -> nn.Module:
    def function(x: Any) -> Any:
        if counts(x.shape[0]):
            raise ValueError("not this many")
        return f(x)

    return Function(function)


def test_a_model_that_refuses_one_sample_is_compared_by_batches() -> None:
    found = network_bound(refuses(lambda n: n == 1, lambda x: 2 * x), (3,))
    assert found.upper == pytest.approx(2)
    assert found.checked.samples == (2, 3, 16)
    assert not found.checked.complete
    assert network_bound(refuses(lambda n: n % 2 == 1, lambda x: 2 * x), (3,)).checked.samples == (2, 16)


@pytest.mark.parametrize("counts", [lambda n: n == 1, lambda n: n % 2 == 1])
def test_a_batch_that_is_no_stack_of_samples_has_no_number(counts: Callable[[int], bool]) -> None:
    """ "Complete", 1.0, was said of it, by no execution at all."""
    with pytest.raises(TranslationError, match="samples together"):
        network_bound(refuses(counts, lambda x: x * x.shape[0]), (3,))


def test_a_model_of_which_nothing_runs_has_no_number() -> None:
    """It runs where it is traced, and nowhere else."""
    closed: list[bool] = []
    graph = network_graph(refuses(lambda _: bool(closed), lambda x: 2 * x), (3,))
    closed.append(True)
    with pytest.raises(TranslationError, match=r"no part of the model could be executed.*not this many"):
        check(graph, graph)


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (lambda x: 5 * x if x.shape[0] == 7 else x, "For 7 samples together the module takes another path"),
        (lambda x: 5 * x if x.shape[0] > 100 else x, "For 101 samples together, and for other numbers up to"),
        (lambda x: 5 * x if x.shape[0] % 32 == 31 else x, "For 31 samples together, and for"),
        (lambda x: x * 2, ""),
    ],
)
def test_branches_on_the_number_of_samples_are_told(f: Any, said: str) -> None:
    found = network_bound(Function(f), (3,))
    assert found.note.startswith(said)
    assert bool(found.note) == bool(said)


def filtered(x: Any, change: Callable[[Any], Any]) -> Any:
    return torch.fft.irfft2(change(torch.fft.rfft2(x)), x.shape[-2:])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "change",
    [
        lambda z: z + 1e-9 * z * z * z.conj(), lambda z: z * (1 + 1e-9 * z.real), lambda z: z / (1 + 1e-9 * z.abs()),
        lambda z: torch.polar(z.abs(), z.angle()),
    ],
)  # fmt: skip
def test_complex_parts_are_linear_by_their_operators(change: Any) -> None:
    """On three random inputs a term of 1e-9 is rounding; for large inputs it has no constant."""
    with pytest.raises(MethodError, match="complex values"):
        network_bound(Function(lambda x: filtered(x, change)), (2, 4, 4))
    assert network_bound(Function(lambda x: filtered(x, lambda z: 0.5 * z.conj().conj())), (2, 4, 4)).upper
