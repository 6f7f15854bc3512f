"""What torch executes in single, half and bfloat16 precision is no further from double precision than is proven."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from networks.torch_modules import Function  # noqa: E402
from specnorm_networks import Measure, certified_accuracy, network_graph  # noqa: E402
from specnorm_networks.radii import executed  # noqa: E402
from specnorm_torch import baked  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def filled(module: nn.Module) -> nn.Module:
    """Every weight one number, without a bias."""
    for name, values in module.named_parameters():
        nn.init.constant_(values, 0.1 if name == "weight" else 0.0)
    return module


def normalised(channels: int) -> nn.Module:
    layer = nn.BatchNorm1d(channels)
    for values, number in (
        (layer.running_mean, -3.3),
        (layer.running_var, 0.7),
        (layer.weight, 0.3),
        (layer.bias, 0.1),
    ):
        assert values is not None
        nn.init.constant_(values, number)
    return layer


def called(module: nn.Module) -> nn.Module:
    return Function(lambda x, inner: inner(x), filled(module))


pytestmark = pytest.mark.filterwarnings("ignore:TF32")
OPERATORS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (called(nn.Linear(4096, 3)), (1, 4096)),
    "linear of rows": (called(nn.Linear(1024, 3)), (1, 5, 1024)),
    "conv1d": (called(nn.Conv1d(128, 2, 9, padding=4)), (1, 128, 12)),
    "conv2d": (called(nn.Conv2d(128, 2, 3, padding=1)), (1, 128, 5, 5)),
    "conv2d in groups": (called(nn.Conv2d(128, 2, 3, padding=1, groups=2)), (1, 128, 5, 5)),
    "conv2d reflected": (called(nn.Conv2d(64, 2, 3, padding=1, padding_mode="reflect")), (1, 64, 5, 5)),
    "conv3d": (called(nn.Conv3d(32, 2, 3, padding=1)), (1, 32, 3, 3, 3)),
    "transposed 1d": (called(nn.ConvTranspose1d(128, 2, 9)), (1, 128, 12)),
    "transposed 2d": (called(nn.ConvTranspose2d(128, 2, 3)), (1, 128, 4, 4)),
    "transposed 3d": (called(nn.ConvTranspose3d(32, 2, 3)), (1, 32, 3, 3, 3)),
    "avg_pool1d": (Function(lambda x: F.avg_pool1d(x, 4096)), (1, 1, 4096)),
    "avg_pool2d": (Function(lambda x: F.avg_pool2d(x, 40, 8)), (1, 1, 48, 48)),
    "avg_pool2d padded": (Function(lambda x: F.avg_pool2d(x, 31, 4, 15)), (1, 2, 32, 32)),
    "avg_pool3d": (Function(lambda x: F.avg_pool3d(x, 12)), (1, 1, 12, 12, 12)),
    "adaptive_avg_pool1d": (Function(lambda x: F.adaptive_avg_pool1d(x, 2)), (1, 1, 4096)),
    "adaptive_avg_pool2d": (Function(lambda x: F.adaptive_avg_pool2d(x, 2)), (1, 1, 64, 64)),
    "adaptive_avg_pool2d, 1": (Function(lambda x: F.adaptive_avg_pool2d(x, 1)), (1, 2, 64, 64)),
    "adaptive_avg_pool3d": (Function(lambda x: F.adaptive_avg_pool3d(x, 2)), (1, 1, 24, 24, 24)),
    "adaptive_avg_pool3d, 1": (Function(lambda x: F.adaptive_avg_pool3d(x, 1)), (1, 1, 12, 12, 12)),
    "mean of the last": (Function(lambda x: x.mean(-1)), (1, 2, 4096)),
    "mean of channels": (Function(lambda x: x.mean(1)), (1, 4096, 3)),
    "mean of several": (Function(lambda x: x.mean((2, 3))), (1, 3, 64, 64)),
    "mean of two apart": (Function(lambda x: x.mean((1, 3), keepdim=True)), (1, 64, 3, 64)),
    "sum of the last": (Function(lambda x: x.sum(-1)), (1, 2, 4096)),
    "sum of channels": (Function(lambda x: x.sum(1)), (1, 4096, 3)),
    "sum of several": (Function(lambda x: x.sum((1, 2))), (1, 64, 64, 3)),
    "batch norm": (Function(lambda x, norm: norm(x), normalised(4)), (1, 4, 9)),
    "a sum of two": (Function(lambda x: x + 0.3 * x), (1, 7)),
    "a quotient": (Function(lambda x: x / 0.3), (1, 7)),
    "leaky_relu": (Function(lambda x: F.leaky_relu(-x, 0.3)), (1, 7)),
    "prelu": (Function(lambda x, slope: slope(-x), nn.PReLU(init=0.3)), (1, 7)),
    "max_pool2d": (Function(lambda x: F.max_pool2d(x, 3)), (1, 2, 9, 9)),
}  # fmt: skip


@pytest.mark.parametrize("precision", list(DTYPES))
@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.nightly
def test_no_sum_of_equal_terms_is_further_off(name: str, precision: str) -> None:
    """Of one sign, and such that each sum of a narrow one is rounded: with oneDNN and without."""
    module, shape = OPERATORS[name]
    module.eval()
    if name.startswith("transposed") and precision != "float32":
        with pytest.raises(MethodError, match="16 bits"):
            executed(network_graph(module, torch.zeros(shape)), precision, Measure(0.5))
        return
    if name.startswith("adaptive") and precision != "float32":  # the module says so, not its graph
        labelled, x = nn.Sequential(module, nn.Flatten()).eval(), torch.zeros(shape)
        with pytest.raises(MethodError, match="16 bits"):
            certified_accuracy(labelled, x, torch.zeros(1, dtype=torch.int64), [0.0], execution=precision)
        return
    at = executed(network_graph(module, torch.zeros(shape)), precision, Measure(0.5))
    wide, narrow = copy.deepcopy(module).double(), copy.deepcopy(module).to(DTYPES[precision])
    for number in (1.0, 0.1, 3.3):
        x = torch.full(shape, number).to(DTYPES[precision])
        found = at.at(x.double().numpy()).error(0.0)
        for enabled in (True, False):
            with torch.no_grad(), torch.backends.mkldnn.flags(enabled=enabled):
                try:
                    apart = float((narrow(x).double() - wide(x.double())).norm())
                except NotImplementedError:  # torch has no such kernel
                    continue
            assert found is None or apart <= found.value, (number, enabled)


def claimed(model: nn.Module, x: Any, precision: str) -> tuple[str, bool]:
    """What is said of the label, and whether torch computes it."""
    labels = model(x).argmax(1)
    found = certified_accuracy(model, x, labels, [0.0], execution=precision)
    narrow = copy.deepcopy(model).to(DTYPES[precision])
    return str(found.status[0, 0]), bool((narrow(x.to(DTYPES[precision])).argmax(1) == labels).all())


def test_adaptive_averages_are_refused_by_name() -> None:
    """Their file has a matrix product instead, which has a rule."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)).eval()
    x = torch.zeros(1, 1, 5, 5)
    for source in (model, network_graph(model, (1, 5, 5))):
        with pytest.raises(MethodError, match=r"adaptive_avg_pool2d\.default is summed in 16 bits"):
            certified_accuracy(source, x, [0], [0.0], execution="float16")


def test_an_operator_without_a_rule_is_named() -> None:
    """No sizes are known behind it: the network was said to end with no matrix."""
    model = nn.Sequential(Function(lambda x: x.cumsum(1)), nn.Linear(4, 2)).eval()
    with pytest.raises(MethodError, match="CumSum has no rule here"):
        certified_accuracy(model, torch.zeros(1, 4), [0], [0.0])


def head(inputs: int, weight: float, bias: float) -> nn.Linear:
    layer = nn.Linear(inputs, 2)
    layer.weight.data = torch.tensor([[weight], [0.0]]).expand(2, inputs).clone()
    layer.bias.data = torch.tensor([0.0, bias])
    return layer


@pytest.mark.nightly
def test_products_that_are_subnormal() -> None:
    """Processors take them for 0 in bfloat16: a label was claimed that torch did not compute."""
    first = nn.Linear(512, 64, bias=False)
    nn.init.constant_(first.weight, 2.0**-70)
    model = nn.Sequential(first, head(64, 2.0**100, 2.0**-20)).eval()
    x = torch.full((1, 512), 2.0**-58)
    status, kept = claimed(model, x, "bfloat16")
    assert kept or status != "safe"
    assert claimed(model, x, "float32") == ("safe", True)
    nn.init.constant_(first.weight, 2.0**-130)
    with pytest.raises(MethodError, match="processors may take for 0"):
        claimed(model, x, "bfloat16")


# -- whole modules ---------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """What every execution has a rule for, and in float32 what torch sums in 16 bits where values have so many."""

    def __init__(self, narrow: bool = True) -> None:
        super().__init__()
        self.narrow = narrow
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", groups=2)
        self.down = nn.Conv2d(6, 8, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.slope, self.head, self.norm = nn.PReLU(), nn.Linear(4 * 4 + 8, 4), nn.BatchNorm2d(6)
        for each in (self.norm.running_mean, self.norm.weight, self.norm.bias):
            nn.init.normal_(each)  # type: ignore[arg-type]

    def forward(self, x: Any) -> Any:
        y = nn.functional.relu6(self.first(x / 0.3))
        y = y + nn.functional.leaky_relu(self.second(y), 0.2)
        y = self.norm(y)
        pooled, y = self.down(y), nn.functional.avg_pool2d(self.down(y), 2, ceil_mode=True)
        if self.narrow:
            y = nn.functional.pad(y[:, :4], (1, 1, 1, 1))
        else:
            pooled, y = nn.functional.adaptive_avg_pool2d(pooled, 3), self.up(y)
        y = self.slope(nn.functional.max_pool2d(y, 2))
        return self.head(torch.cat([y.flatten(1), pooled.mean((2, 3))], 1))


def drawn(seed: int, *, narrow: bool) -> nn.Module:
    torch.manual_seed(seed)
    return Residual(narrow).eval()


@pytest.mark.parametrize("name", list(DTYPES))
@pytest.mark.sampled("bfloat16")
def test_what_torch_computes_is_not_further_off(name: str) -> None:
    model, largest = drawn(0, narrow=name != "float32"), 0.0
    at = executed(network_graph(model, torch.zeros(1, 2, 8, 8)), name, Measure())
    narrow, wide = copy.deepcopy(model).to(DTYPES[name]), copy.deepcopy(model).double()
    for _ in range(3):
        centre = torch.randn(1, 2, 8, 8)
        away = torch.randn(20, 2, 8, 8)
        x = (centre + 0.3 * away / away.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)).to(DTYPES[name])
        assert (x.double() - centre).flatten(1).norm(dim=1).max() < 0.4
        found = at.at(centre.double().numpy()).error(0.4)
        assert found is not None
        with torch.no_grad():
            apart = torch.cat([narrow(each[None]).double() - wide(each[None].double()) for each in x]).norm(dim=1)
        largest = max(largest, float(apart.max()) / found.value)
    assert 1e-4 < largest < 1


def test_certified_accuracy_as_executed() -> None:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 3, 3, stride=2), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(12, 3)
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 1, 6, 6)
    y = model(x).argmax(1)
    found = {
        name: certified_accuracy(model, x, y, [0.0, 1e-3], execution=name) for name in (None, "float32", "bfloat16")
    }
    radii = [found[name].radius for name in found]
    assert all((better >= worse).all() for better, worse in itertools.pairwise(radii))
    assert found["float32"].radius.min() > 0


def test_what_is_not_stored_as_the_model_has_it_is_refused() -> None:
    """A kernel that is computed before each call is computed in half precision there; a scale of 0 bounds nothing. Both
    can be folded."""
    computed = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(4, 3)))
    x, y = torch.randn(2, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(MethodError, match="bake_"):
        certified_accuracy(computed, x, y, [0.1], execution="float16")
    assert certified_accuracy(baked(computed), x, y, [0.1], execution="float16").radius.shape == (2,)
    scaled: Any = Function(lambda x: (x * scaled.weight.exp()) @ scaled.matrix)
    scaled.weight, scaled.matrix = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 3))
    with pytest.raises(MethodError, match="what exp gives"):
        certified_accuracy(scaled, x, y, [0.1], execution="float16")
    normal = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    assert certified_accuracy(normal, x, y, [0.1], execution="float32").radius.shape == (2,)
    nn.init.zeros_(normal[1].weight)  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="fold batch normalisation"):
        certified_accuracy(normal, x, y, [0.1], execution="float32")


class Cancelling(nn.Module):
    """Classes by a sum with a number that is computed from a stored one, of which half precision keeps little."""

    def __init__(self) -> None:
        super().__init__()
        self.stored, self.last = nn.Parameter(torch.tensor(8.3036)), nn.Linear(2, 2)
        self.last.weight.data, self.last.bias.data = torch.eye(2), torch.zeros(2)

    def forward(self, x: Any) -> Any:
        return self.last(x + torch.tensor([0.0, 1.0]).to(x) * ((self.stored - 8.296875) * 256))


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_is_computed_when_it_is_called_is_refused(tmp_path: Path) -> None:
    """1.72 in single precision, 2 in half: another label, which was certified."""
    model, half, x = Cancelling().eval(), Cancelling().half().eval(), torch.tensor([[1.9, 0.0]])
    y = model(x).argmax(1)
    assert y.item() == 0
    assert half(x.half()).argmax(1).item() == 1
    path = tmp_path / "computed.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, optimize=False, external_data=False, verbose=False)
    for source in (model, path):
        assert certified_accuracy(source, x, y, [0.0]).status[0, 0] == "safe"
        with pytest.raises(MethodError, match="is no array that the model stores"):
            certified_accuracy(source, x, y, [0.0], execution="float16")


class Own(nn.Module):
    """Two classes by a function of a module of its own numbers."""

    def __init__(self, f: Any, stored: Any = (0.0, 0.0), bias: float = 0.0) -> None:
        super().__init__()
        self.f, self.stored, self.last = f, nn.Parameter(torch.tensor(stored)), nn.Linear(2, 2)
        self.last.weight.data, self.last.bias.data = torch.eye(2), torch.tensor([0.0, bias])

    def forward(self, x: Any) -> Any:
        return self.last(self.f(x, self.stored))


class Shrunk(nn.Module):
    """A kernel by control flow that no trace follows."""

    def forward(self, w: Any) -> Any:
        return w / w.norm() if w.norm() > 1 else w


def shrunk() -> nn.Module:
    linear = nn.Linear(2, 2)
    torch.nn.utils.parametrize.register_parametrization(linear, "weight", Shrunk())
    return nn.Sequential(nn.Flatten(), linear)


THIRD = float(torch.tensor(0.3))
OTHERWISE: dict[str, tuple[nn.Module, list[float], str, str]] = {
    # 0.10001 is 0.1 in bfloat16, and 1.0001 is 1 in half precision.
    "mask": (Own(lambda x, w: torch.where(w > 0.1, x, 0 * x), (0.10001, 0.5)), [1.0, 0.5], "bfloat16", "what gt"),
    "order": (Own(lambda x, w: x[:, w.argsort(stable=True)], (1.0001, 1.0)), [1.0, 0.5], "float16", "what argsort"),
    "stored order": (
        Own(lambda x, w: x + w[w.argsort(stable=True).argsort(stable=True)], (1.0001, 1.0)), [1.0, 1.00005], "float16",
        "what index gives",
    ),
    "number": (
        Own(lambda x, w: x + torch.eye(2)[1].to(x) * ((w[0].item() - 8.296875) * 256), (8.3036, 0.0)), [1.9, 0.0],
        "float16", "what .* gives",
    ),
    "smallest step": (
        Own(lambda x, _: x.clamp(min=torch.finfo(x.dtype).eps), bias=-(2.0**-12)), [0.0, 2.0**-11], "float16",
        "clamp.default otherwise",
    ),
    "branch": (
        Own(lambda x, _: x if x.dtype == torch.float32 else x.flip(1)), [1.0, 0.5], "float16", "otherwise there",
    ),
    "wider": (Own(lambda x, _: x * 0.3, bias=THIRD), [1 + 5e-9, 0.0], "float64", r"give model\.to\(torch\.float64\)"),
    "wider slope": (
        Own(lambda x, _: F.leaky_relu(x, 0.3), bias=-THIRD), [-1 + 1e-9, 0.0], "float64", "give model",
    ),
    "of half": (Own(lambda x, _: x * 0.3, bias=0.3).half(), [1.0, 0.0], "float32", "give model"),
    "baked": (shrunk(), [1.0, 0.5], "float16", "one of its kernels"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OTHERWISE))
def test_what_is_another_network_in_the_precision_is_refused(name: str) -> None:
    """Other numbers, other code: labels were certified that torch does not compute."""
    model, x, precision, reason = OTHERWISE[name]
    given, labels = torch.tensor([x], dtype=torch.float64), torch.tensor([0])
    with pytest.raises(MethodError, match=reason):
        certified_accuracy(model.eval(), given, labels, [0.0], execution=precision)


def test_what_moves_or_is_cast_is_the_same_in_each_precision() -> None:
    """Views of stored numbers, and casts to the input's type."""
    model = Own(lambda x, w: (x + w.flip(0)[None].expand(1, 2)) * torch.tensor([1.0, 0.5]).to(x.dtype)).eval()
    for name in DTYPES:
        found = certified_accuracy(model, torch.tensor([[1.0, 0.5]]), [0], [0.0], execution=name)
        assert found.radius[0] > 0


def test_sums_in_parts_are_refused() -> None:
    """Of one output torch keeps a part for each thread, in 16 bits: infinite here, less infinity."""
    x = torch.full((1, 1, 110, 300), 5.0)
    x[:, :, 55:] *= -1
    model = nn.Sequential(Function(lambda x: x.sum((2, 3))), head(1, 1.0, 700.0)).eval()
    with pytest.raises(MethodError, match="a sum of 33000 numbers may be summed in 16 bits"):
        certified_accuracy(model, x, [1], [0.0], execution="float16")
    assert certified_accuracy(model, x, [1], [0.0], execution="float32").radius[0] > 0


def test_rounding_of_logits_is_counted() -> None:
    """Without an execution: what is added cancels in single precision, and the label of the sample is another one."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0**25, -(2.0**25), 1.0], [0.0, 0.0, 0.5]]))
        model.bias.zero_()
    x, y = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([0])
    found = certified_accuracy(model, x, y, [0.0])
    assert found.accuracy[0] == 1.0
    model.weight.data *= 2.0**30
    model.weight.data[0, 2], model.weight.data[1, 2] = 1.0, 0.5
    assert certified_accuracy(model, x, y, [0.0]).accuracy[0] == 0.0
