"""What the graph of a module shows to be no function of its input is refused; modules are not looked at otherwise."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checks import present

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from onnx.reference import ReferenceEvaluator  # noqa: E402
from specnorm_networks import certified_accuracy, network_bound  # noqa: E402
from torch import nn  # noqa: E402
from torch.compiler import is_compiling  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from specnorm.errors import MethodError, TranslationError  # noqa: E402


class Applied(nn.Module):
    """A function of the module and its input; `value` and the buffer `count` are 0 at first."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.function = function
        self.value = 0
        self.held = torch.zeros(())
        self.register_buffer("count", torch.zeros(()))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def counting(self: Any, x: Any) -> Any:
    self.count += 1
    return x * torch.where(self.count > 100, 100.0, 1.0)


def renewing(self: Any, x: Any) -> Any:
    self.count = self.count + 1
    return x * torch.where(self.count > 100, 100.0, 1.0)


def count(counted: list[int] = []) -> int:  # noqa: B006 - kept from call to call
    counted.append(0)
    return len(counted)


# No probe of moderate size sees the other way.
ON_VALUES = r"cannot export Applied: its control flow .* depends on values"
# A trace sees one value of what torch does not draw, or of what a model counts, and the comparison others.
OTHERWISE = "exported otherwise than it computes"
REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a state": (counting, "keeps a state: count is written"),
    "a state, renewed": (renewing, "keeps a state: count .* and read"),
    "fewer samples": (lambda _, x: x if len(x) < 4 else 100 * x, "samples together"),
    "three samples": (lambda _, x: x if len(x) != 3 else 100 * x, "3 samples together"),
    "the mean of samples": (lambda self, x: self.inner(x - x.mean(0)), "samples together"),
    "a random number": (lambda _, x: x * torch.rand(()), "draws random numbers"),
    "random numbers": (lambda _, x: x * torch.rand(4), "draws random numbers"),
    "dropout": (lambda _, x: F.dropout(x, 0.5, training=True), "draws random numbers .*dropout"),
    "numbers of NumPy": (lambda _, x: x * torch.as_tensor(np.random.default_rng().normal(size=4)), OTHERWISE),
    "numbers of Python": (lambda _, x: x * torch.as_tensor(random.random()), OTHERWISE),
    "a number of calls": (lambda _, x: x * torch.as_tensor(count()), OTHERWISE),
    "on its input": (lambda self, x: 2 * x if x.abs().max() > 100 else self.inner(x), ON_VALUES),
    "on a number of it": (lambda self, x: 2 * x if torch.tensor(float(x.abs().max())) > 100 else self.inner(x),
                          ON_VALUES),
    "on a list of it": (lambda self, x: 2 * x if torch.tensor(x.tolist()).max() > 100 else self.inner(x), ON_VALUES),
    "on its own bias": (lambda self, x: 2 * x if self.inner.bias.max() > 100 else self.inner(x), ON_VALUES),
    "a number of steps": (lambda self, x: sum(self.inner(x) for _ in range(int(x.abs().max()))), ON_VALUES),
    # What no constant was derived for, by an error or in an answer without a bound.
    "celu": (lambda _, x: F.celu(x, -0.1), "alpha"),
    "elu": (lambda _, x: torch.ops.aten.elu(x, 1.0, 1.0, -1.0), "elu of aten is not supported"),
    "softplus": (lambda _, x: F.softplus(x, threshold=1), "softplus of aten is not supported"),
    "threshold": (lambda _, x: F.threshold(x, 0.5, 0.0), "threshold"),
    "view": (lambda _, x: x.view(torch.bfloat16), f"view of aten is not supported|{OTHERWISE}"),
    "rounded": (lambda _, x: torch.div(x, 2, rounding_mode="floor"), "it jumps at whole numbers"),
    "complex": (lambda _, x: torch.view_as_complex(x.reshape(2, 2)).abs(), "complex values"),
    "float8": (lambda _, x: x.to(torch.float8_e4m3fn).to(torch.float32), "a cast to integers is discontinuous"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.sampled("state", "samples", "dropout", "Python", "input", "bias", "steps", "celu", "random number")
def test_what_is_no_function_of_its_input_or_has_no_constant_is_refused(name: str) -> None:
    function, words = REFUSED[name]
    model = Applied(function)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    try:
        found = network_bound(model, (4,))
        said = found.unknown[0].reason if found.upper is None else ""
    except (MethodError, TranslationError) as error:
        said = str(error)
    assert re.search(words, said), said
    assert [(name, x) for name, x in model.state_dict().items() if not torch.equal(x, before[name])] == []


def remembering(self: Any, x: Any) -> Any:
    self.held = x.detach()  # for whoever looks at it
    self.value = x.shape[1]
    return 2 * x


def counting_unread(self: Any, x: Any) -> Any:
    self.count += 1
    return 2 * x


def counting_calls(self: Any, x: Any) -> Any:
    self.value += 1
    return 2 * x


KEPT: dict[str, Callable[[Any, Any], Any]] = {
    "a state that is not read": counting_unread,
    "a number that is counted": counting_calls,
    "asks whether it is compiled": lambda _, x: 2 * x if is_compiling() else x + x,
    "asks for gradients": lambda _, x: 2 * x if torch.is_grad_enabled() or not x.requires_grad else x,
    "what it saw is kept and not read": remembering,
    "torch itself asks": lambda self, x: 2 * F.dropout(torch.utils.checkpoint.checkpoint(
        lambda y: y, x, use_reentrant=False), 0.5, training=self.training),
}  # fmt: skip


@pytest.mark.parametrize("words", list(KEPT))
@pytest.mark.sampled("number that is counted", "torch itself asks")
def test_modules_with_a_harmless_state_are_bounded(words: str) -> None:
    found: Any = network_bound(Applied(KEPT[words]), (1,))
    assert found.upper == pytest.approx(2.0)
    assert found.checked.samples == (2, 3, 16)


def test_a_table_that_a_first_call_fills_holds_numbers_afterwards() -> None:
    """Tensors of a trace stayed in it, and the model did not run any more."""
    tables: dict[int, Any] = {}

    def tabled(_: Any, x: Any) -> Any:
        if x.shape[1] not in tables:
            tables[x.shape[1]] = torch.arange(1.0, 1 + x.shape[1])
        return x * tables[x.shape[1]]

    model = Applied(tabled)
    assert network_bound(model, (3,)).upper == pytest.approx(3.0)
    assert model(torch.ones(1, 3)).tolist() == [[1, 2, 3]]


class Merged(nn.Linear):
    """Adds a matrix to its kernel in eval(), and takes it off in train(), as layers with adapters do."""

    weight: Any
    merged = False

    def train(self, mode: bool = True) -> Any:
        if mode == self.merged:
            self.weight.data += -1 if mode else 1
            self.merged = not mode
        return super().train(mode)


def test_kernels_that_eval_changes_are_put_back() -> None:
    """They were changed anew at each execution."""
    model: Any = nn.Sequential(Merged(2, 2, bias=False))
    before = model[0].weight.detach().clone()
    found: Any = network_bound(model, (2,))
    assert found.upper == pytest.approx(float(torch.linalg.matrix_norm((before + 1).double(), 2)), rel=1e-6)
    assert torch.equal(model[0].weight, before)
    assert model.training
    assert not model[0].merged


def test_what_writes_its_input_and_returns_it() -> None:
    assert network_bound(nn.Sequential(nn.ReLU(inplace=True), nn.ReLU(inplace=True)), (2,)).upper == 1


@pytest.mark.parametrize("given", [((4,), (4,)), (4.0,), (-1,), "4", {"x": (4,)}, (torch.zeros(1, 4), 3)])
def test_what_is_no_shape_is_refused(given: Any) -> None:
    with pytest.raises(MethodError, match=r"one input.s shape without the batch axis"):
        network_bound(nn.Linear(4, 4), given)


def test_inputs_may_be_one_array_and_of_another_library() -> None:
    x = np.ones((1, 4), np.float32)
    for given in ((x, x), (torch.ones(1, 4),) * 2):
        assert network_bound(Sum(), given).upper == pytest.approx(10**0.5)


class Sum(nn.Module):
    def forward(self, x: Any, y: Any) -> Any:
        return x + 3 * y


def test_a_constant_is_refused() -> None:
    with pytest.raises(MethodError, match="no output of the network is computed from its inputs"):
        network_bound(Applied(lambda *_: torch.ones(3)), (1,))


# -- training mode -------------------------------------------------------------------------------------------------
IN_TRAINING: dict[str, tuple[nn.Module, bool]] = {
    "dropout": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), True),
    "batch normalisation": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), True),
    "a rate of 0": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)), False),
    "nothing": (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), False),
}


@pytest.mark.parametrize("name", IN_TRAINING)
@pytest.mark.sampled("dropout", "nothing")
def test_an_answer_says_that_a_module_was_taken_in_eval(name: str) -> None:
    """Dropout in train() had a bound without a word."""
    model, differs = IN_TRAINING[name]
    before = {key: x.clone() for key, x in model.state_dict().items()}
    random = torch.random.get_rng_state()
    found = network_bound(model.train(), (4,))
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [(key, x) for key, x in model.state_dict().items() if not torch.equal(x, before[key])] == []
    assert ("taken in eval()" in str(found)) == differs
    assert "taken in eval()" not in str(network_bound(model.eval(), (4,)))


# -- the exported file ---------------------------------------------------------------------------------------------
def test_an_answer_holds_the_exported_file(tmp_path: Path) -> None:
    """The bound of the file is the same, and the file computes what the module does."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    found = network_bound(model, (2, 6, 6))
    said = f"Of the exported graph; compared with the model on {found.checked.inputs} inputs."
    assert said in str(found).splitlines()
    path = tmp_path / "model.onnx"
    found.save(path)
    content = path.read_bytes()
    assert found.digest == hashlib.sha256(content).hexdigest() == found.to_dict()["digest"]
    assert found.digest == network_bound(model, (2, 6, 6)).digest
    assert str(Path(__file__).parent).encode() not in content
    proto: Any = found.model
    assert proto.SerializeToString() == content
    x = torch.randn(5, 2, 6, 6)
    theirs: Any = ReferenceEvaluator(str(path)).run(None, {proto.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(theirs[0], model(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    of_file = network_bound(path)
    assert of_file.upper == pytest.approx(present(found.upper), rel=1e-12)
    assert (of_file.file, of_file.model, of_file.digest) == (None, None, "")
    assert "exported graph" not in str(of_file)
    with pytest.raises(MethodError, match="not a live model"):
        of_file.save(path)
    labels = certified_accuracy(model, x, model(x).argmax(1), [0.0])
    assert labels.digest == found.digest
    assert said in str(labels)
