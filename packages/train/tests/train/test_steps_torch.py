"""One step for all constrained layers in each forward pass of a model: every weight in use has the step that is its."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

import specnorm
from specnorm.errors import MethodError
from specnorm.methods import SymbolNorm, TensorNorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from specnorm_torch.arrays import TorchArrays  # noqa: E402
from specnorm_train.torch import steps  # noqa: E402
from specnorm_train.torch.constraint import SpectralNorm  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

nn: Any = torch.nn
parametrize = torch.nn.utils.parametrize
pytestmark = pytest.mark.usefixtures("fresh_torch")
IMAGES = torch.ones(1, 5, 4, 4)


class Chain(nn.Module):  # type: ignore[misc]
    """Equal convolutions of different norms; ``between`` is called in the middle of each forward pass."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(5, 5, 3, padding=1) for _ in range(count))
        with torch.no_grad():
            for j, layer in enumerate(self.layers):
                layer.weight *= 3**j
        self.between: Callable[[], None] = lambda: None

    def forward(self, x: Any) -> Any:
        for j, layer in enumerate(self.layers):
            if j == 1:
                self.between()
            x = layer(x)
        return x


def chain(count: int = 4) -> Any:
    return specnorm_torch.spectral_norm(Chain(count))


def constraint_of(layer: Any) -> Any:
    return layer.parametrizations.weight[0]


def original_of(layer: Any) -> Any:
    return layer.parametrizations.weight.original


def check(weight: Any) -> None:
    symbols = torch.fft.fft2(weight.detach().double(), s=(24, 24)).permute(2, 3, 0, 1)
    assert 0.985 < float(torch.linalg.matrix_norm(symbols, 2).max()) < 1.015


def checked(model: Any) -> list[Any]:
    """Check each weight that the model's layers use from now on; return them as they are used."""
    used: list[Any] = []

    def check_use(_: Any, __: Any, weight: Any) -> None:
        check(weight)
        used.append(weight)

    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            layer.parametrizations.weight.register_forward_hook(check_use)
    return used


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of layers whose steps were taken together, one for each stack."""
    sizes: list[int] = []
    stacks_of = steps._stacks

    def counted(inputs: Any) -> Any:
        found = list(stacks_of(inputs))
        sizes.extend(len(stack.members) for stack in found)
        return found

    monkeypatch.setattr(steps, "_stacks", counted)
    return sizes


# -- stale steps -----------------------------------------------------------------------------------------------------
def in_place(layer: Any) -> None:
    with torch.no_grad():
        original_of(layer)[0, 0, 0, 0] += 20


def by_an_optimiser(layer: Any) -> None:
    with torch.enable_grad():
        layer.weight.square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=5.0).step()


def by_a_new_parameter(layer: Any) -> None:
    layer.parametrizations.weight.original = nn.Parameter(torch.randn_like(original_of(layer)))


def by_assigning(layer: Any) -> None:
    layer.weight = torch.randn_like(original_of(layer))


def by_loading(layer: Any) -> None:
    torch.manual_seed(9)
    other = specnorm_torch.spectral_norm(nn.Conv2d(5, 5, 3, padding=1))
    layer.load_state_dict(other.state_dict())


def by_casting(layer: Any) -> None:
    layer.double().float()
    in_place(layer)


def through_data(layer: Any) -> None:
    original_of(layer).data[0, 0, 0, 0] += 20


def through_numpy(layer: Any) -> None:
    """By a tenth, which is less than 1 in a product with a layer's vector."""
    original_of(layer).detach().numpy()[...] *= 1.1


SEEN = [in_place, by_an_optimiser, by_a_new_parameter, by_assigning, by_loading, by_casting]
CHANGES = [*SEEN, through_data, through_numpy]


@pytest.mark.parametrize("change", SEEN, ids=lambda x: x.__name__)
def test_no_step_of_an_earlier_weight_is_used(change: Callable[[Any], None]) -> None:
    """The weight is changed between the model's step and its use, by means that torch counts."""
    model = chain()
    model.between = lambda: change(model.layers[2])
    used = checked(model)
    for _ in range(2):
        model(IMAGES).sum().backward()
    assert len(used) >= 8


@pytest.mark.parametrize("change", CHANGES, ids=lambda x: x.__name__)
def test_no_step_of_an_earlier_pass_is_used(change: Callable[[Any], None]) -> None:
    """Neither by a layer that is used alone, nor by the next pass."""
    model = chain()
    model(IMAGES)
    checked(model)
    change(model.layers[2])
    model.layers[2].weight.sum().backward()
    change(model.layers[1])
    model(IMAGES).sum().backward()


def test_a_weight_that_does_not_change_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several forward passes of one weight have one step, and the same weight in use to the bit."""
    model = chain()
    model(IMAGES)

    def refused(inputs: Any) -> Any:
        assert not inputs, "a step of a weight that has one"
        return []

    with monkeypatch.context() as patched:
        patched.setattr(steps, "take_plain_steps", refused)
        first = model(IMAGES)
        model.eval().train()
        assert torch.equal(model(IMAGES), first)
    through_data(model.layers[1])
    checked(model)
    assert not torch.equal(model(IMAGES), first)


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_resumed_between_two_passes_is_the_same_run(changed: bool) -> None:
    """Also where a weight has had its step already, which is not taken a second time."""
    model, again = chain(), chain()
    for _ in range(5):
        model(IMAGES)
        with torch.no_grad():
            for layer in model.layers:
                original_of(layer).mul_(1 + 0.02 * torch.randn_like(original_of(layer)))
    model(IMAGES)
    if changed:
        in_place(model.layers[2])
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    for _ in range(3):
        assert torch.equal(model(IMAGES), again(IMAGES))
        for each in (model, again):
            in_place(each.layers[1])
    for name, x in model.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name


def test_a_bound_that_is_changed_counts_at_once() -> None:
    model = chain()
    model(IMAGES)
    constraint_of(model.layers[1]).bound = 0.25
    used: list[Any] = []
    model.layers[1].parametrizations.weight.register_forward_hook(lambda *args: used.append(args[2].detach()))
    model(IMAGES)
    assert float(specnorm.enclose(used[0]).upper) == pytest.approx(0.25, rel=1e-2)


# -- together as alone -------------------------------------------------------------------------------------------------
class Residual(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.wide = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.point = nn.Conv2d(6, 6, 1)
        self.dense = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x: Any) -> Any:
        for layer in self.narrow:
            x = x + layer(x).relu()
        x = self.down(x)
        for layer in self.wide:
            x = x + layer(x).relu()
        x = self.point(x).mean((2, 3))
        for layer in self.dense:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    ("method", "passes", "expected"),
    [(SymbolNorm(), 12, [1, 1, 2, 3, 4]), (TensorNorm(), 4, [1, 1, 2, 3, 4])],
    ids=lambda x: str(x)[:6],
)
def test_together_as_alone(method: Any, passes: int, expected: list[int], stacks: list[int]) -> None:
    """Gradients and states in training. In float32 the processor's order of sums would change a step by 1 %."""
    torch.manual_seed(0)
    together = Residual().double()
    alone = copy.deepcopy(together)
    specnorm_torch.spectral_norm(together, method=method)
    for layer in list(alone.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            specnorm_torch.spectral_norm(layer, method=method)
    assert together.state_dict().keys() == alone.state_dict().keys()
    data = torch.randn(8, 4, 6, 6, dtype=torch.float64)
    optimisers = [torch.optim.SGD(x.parameters(), lr=0.02, momentum=0.5) for x in (together, alone)]
    for _ in range(passes):
        optimisers[0].zero_grad()
        stacks.clear()
        together(data).square().sum().backward()
        assert sorted(stacks) == expected
        optimisers[1].zero_grad()
        alone(data).square().sum().backward()
        for one, other in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9 * float(other.grad.abs().max()))
        for optimiser in optimisers:
            optimiser.step()
    for name, x in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], x, rtol=1e-3, atol=1e-4)


# -- uses that are not one a pass --------------------------------------------------------------------------------------
def used_in_one_loss(model: Any) -> None:
    """As of a critic that sees real and made images; and accumulated."""
    (model(IMAGES) - model(2 * IMAGES)).sum().backward()
    model(IMAGES).sum().backward()


def used_between_modes(model: Any) -> None:
    model.eval()(IMAGES).sum().backward()
    model.train()
    model.layers[1].eval()
    model(IMAGES).sum().backward()
    model.train()


def used_in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        model(IMAGES)
    model(IMAGES).sum().backward()


def used_while_cached(model: Any) -> None:
    with parametrize.cached():
        (model(IMAGES) + model(IMAGES)).sum().backward()


def used_through_functional_call(model: Any) -> None:
    name = "layers.1.parametrizations.weight.original"
    other = {name: torch.randn_like(original_of(model.layers[1]))}
    torch.func.functional_call(model, other, IMAGES).sum().backward()
    model(IMAGES).sum().backward()


def used_with_an_error(model: Any) -> None:
    def fail() -> None:
        raise RuntimeError("in the middle of a pass")

    model.between = fail
    with pytest.raises(RuntimeError, match="middle"):
        model(IMAGES)
    through_data(model.layers[2])
    model.layers[2].weight.sum().backward()


def used_after_an_interrupt(model: Any) -> None:
    """torch calls no hook after it; the next pass sees what changed through ``.data`` in between."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    model.between = interrupt
    with pytest.raises(KeyboardInterrupt):
        model(IMAGES)
    through_data(model.layers[2])
    model.between = lambda: None
    model(IMAGES).sum().backward()


def used_in_itself(model: Any) -> None:
    def once() -> None:
        model.between = lambda: None
        in_place(model.layers[3])
        model(IMAGES).sum().backward()

    model.between = once
    model(IMAGES).sum().backward()


USES = [
    used_in_one_loss, used_between_modes, used_in_inference_mode, used_while_cached, used_through_functional_call,
    used_with_an_error, used_after_an_interrupt, used_in_itself,
]  # fmt: skip


@pytest.mark.parametrize("use", USES, ids=lambda x: x.__name__)
def test_every_use_has_its_step(use: Callable[[Any], None]) -> None:
    model = chain()
    checked(model)
    for _ in range(2):
        use(model)
        model.between = lambda: None
        gradients = [x.grad for x in model.parameters() if x.grad is not None]
        assert [x for x in gradients if not x.isfinite().all()] == []
        for layer in model.layers:
            assert not constraint_of(layer)._taken.is_in_pass
            with torch.no_grad():
                original_of(layer).add_(0.1 * original_of(layer).std() * torch.randn_like(original_of(layer)))


def test_a_pass_is_one_step(stacks: list[int]) -> None:
    model = chain()
    model.layers.append(model.layers[1])
    used = checked(model)
    model(IMAGES).sum().backward()
    assert stacks == [4]
    assert torch.equal(used[1], used[-1])
    model.eval()(IMAGES)
    assert stacks == [4]


def test_a_compiled_model(stacks: list[int]) -> None:
    """The hook leaves the steps to the compiled graph."""
    model = specnorm_torch.spectral_norm(nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(IMAGES).sum().backward()
    assert stacks == []
    checked(model)
    model(IMAGES)


def test_models_under_vmap() -> None:
    model = chain(1).eval()
    before = constraint_of(model.layers[0]).vectors.clone()
    batch = torch.randn(3, 5, 5, 3, 3)
    name = "layers.0.parametrizations.weight.original"
    torch.func.vmap(lambda weight: torch.func.functional_call(model, {name: weight}, IMAGES))(batch)
    assert torch.equal(constraint_of(model.layers[0]).vectors, before)


@pytest.mark.parametrize("train", [True, False])
def test_derivatives_by_the_inputs(train: bool) -> None:
    """``torch.func`` transforms the images alone: weights are constants of it, and ordinary autograd follows them."""
    model = specnorm_torch.spectral_norm(nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 2, 3)))
    model.train(train)
    images = torch.randn(3, 5, 4, 4)
    jacobians = torch.func.vmap(torch.func.jacrev(model))(images)
    plain = specnorm_torch.baked(model.eval())
    torch.testing.assert_close(jacobians, torch.func.vmap(torch.func.jacrev(plain))(images), rtol=5e-3, atol=1e-3)
    torch.testing.assert_close(
        torch.func.jvp(model, (images,), (images,))[1], torch.func.jvp(plain, (images,), (images,))[1]
    )
    jacobians.square().sum().backward()
    weight, gradient = original_of(model[0]).detach(), original_of(model[0]).grad
    # A weight times a number is the same constrained weight.
    assert abs(float((gradient * weight).sum())) < 0.02 * float(gradient.norm() * weight.norm())


def test_derivatives_by_the_weights_in_training() -> None:
    """The state moves under ``torch.func.grad`` as without it, though it is not what is transformed."""
    model = chain(2)
    twin, weights = copy.deepcopy(model), dict(model.named_parameters())
    call = torch.func.functional_call
    gradients = torch.func.grad(lambda p: call(model, p, IMAGES).square().sum())(weights)
    twin(IMAGES).square().sum().backward()
    torch.testing.assert_close(gradients, {name: x.grad for name, x in twin.named_parameters()}, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        for x in twin.parameters():
            x.add_(0.0)
    torch.testing.assert_close(*(dict(each.state_dict()) for each in (model, twin)))
    several = {name: torch.stack([x, 2 * x]) for name, x in weights.items()}
    with pytest.raises(MethodError, match="stack_module_state"):
        torch.func.vmap(lambda p: call(model, p, IMAGES))(several)


# -- copies, removed constraints, other kinds --------------------------------------------------------------------------
def test_a_copy_steps_for_itself(stacks: list[int]) -> None:
    model = chain()
    twin, part = copy.deepcopy(model), copy.deepcopy(model.layers[1])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    checked(twin)
    through_data(twin.layers[2])
    twin(IMAGES)
    assert stacks == [4]
    assert [(name, x) for name, x in model.state_dict().items() if not torch.equal(x, before[name])] == []
    part(IMAGES)
    assert stacks == [4, 1]


def test_a_removed_constraint_is_forgotten(stacks: list[int]) -> None:
    model = chain()
    reference = weakref.ref(constraint_of(model.layers[1]))
    specnorm_torch.bake_(model.layers[1])
    gc.collect()
    assert reference() is None
    stacks.clear()
    model(IMAGES)
    assert stacks == [3]


def test_modes_dtypes_and_frozen_layers_are_kept_apart(stacks: list[int]) -> None:
    model = chain(6)
    model.layers[1].eval()
    model.layers[2].double()
    model.layers[3].requires_grad_(False)
    stacks.clear()
    model.layers[2].register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    model.layers[2].register_forward_hook(lambda *args: args[2].float())
    model(IMAGES)
    assert stacks == [4, 1]


def test_a_layer_of_nan_leaves_the_others_alone() -> None:
    model = chain()
    with torch.no_grad():
        original_of(model.layers[1]).fill_(torch.nan)
    finite: list[bool] = []
    for layer in model.layers:
        layer.parametrizations.weight.register_forward_hook(lambda *args: finite.append(bool(args[2].isfinite().all())))
    for _ in range(3):
        model(IMAGES)
    assert finite == 3 * [True, False, True, True]


class TwoHeads(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 5), nn.Linear(6, 4)

    def forward(self, x: Any) -> tuple[Any, Any]:
        return self.one(x), self.two(x)


def test_a_gradient_may_have_any_strides() -> None:
    """That of a transposed weight was refused by torch: its entries are no view of a vector."""
    layer = specnorm_torch.spectral_norm(nn.Linear(6, 4, bias=False))
    direction = torch.randn(6, 4)
    losses: list[Any] = [lambda w: (w.t() * direction).sum(), lambda w: (w * direction.t().contiguous()).sum()]
    gradients = []
    for loss in losses:
        layer.zero_grad()
        loss(layer.weight).backward()
        gradients.append(original_of(layer).grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_weight_that_is_changed_before_its_backward_pass_is_told() -> None:
    model = specnorm_torch.spectral_norm(TwoHeads())
    loss = model(torch.ones(2, 6))[0].sum()
    with torch.no_grad():
        original_of(model.one).add_(1.0)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_gradients_in_batches_and_with_a_graph() -> None:
    model = specnorm_torch.spectral_norm(TwoHeads())
    output = model(torch.ones(1, 6))[1].square()
    weight, rows = original_of(model.two), torch.eye(4)[:, None]
    alone = [torch.autograd.grad(output, weight, row, retain_graph=True)[0] for row in rows]
    (batch,) = torch.autograd.grad(output, weight, rows, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(batch, torch.stack(alone))
    (with_graph,) = torch.autograd.grad(output, weight, rows[0], create_graph=True)
    torch.testing.assert_close(with_graph.detach(), alone[0])


def test_replicas_step_alone(stacks: list[int]) -> None:
    """As those of `DataParallel`, which share hooks and attributes, and have weights of their own."""
    model = chain()
    replica = model._replicate_for_data_parallel()
    replica.layers = nn.ModuleList()
    replica(IMAGES)
    constraint = constraint_of(model.layers[1])._replicate_for_data_parallel()
    assert stacks == []
    weight = torch.randn_like(original_of(model.layers[1])).requires_grad_()
    model.between = lambda: check(constraint(weight))
    model(IMAGES)
    assert stacks == [4, 1]


def test_two_threads_use_one_model() -> None:
    model = chain()
    for _ in range(32):
        model(IMAGES)
    checked(model)
    errors: list[Exception] = []

    def run() -> None:
        try:
            for _ in range(5):
                model(IMAGES).sum()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


# -- recorded on a CUDA device -----------------------------------------------------------------------------------------
class FakeGraph:
    """In place of a CUDA graph: its replay makes the recorded call again, and writes the results where they were."""

    def __init__(self, recorded: steps.Recorded) -> None:
        self.recorded, self.replays = recorded, 0

    def replay(self) -> None:
        self.replays += 1
        new = self.recorded._function(self.recorded._inputs)
        for before, after in zip(self.recorded._outputs, new, strict=True):
            torch._foreach_copy_([*steps._outputs(before), *before.state], [*steps._outputs(after), *after.state])


def test_recordings_are_replayed_on_the_inputs_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic around a CUDA graph, with a fake one. Outputs outlive the next replay."""

    def in_tensors(inputs: Any) -> Any:
        found = steps.take_usual_steps(inputs)
        return [x._replace(factor=torch.tensor(x.factor), slope=torch.tensor(x.slope)) for x in found]

    recorded: Any = steps.Recorded(in_tensors)

    def record(inputs: Any) -> bool:
        assert recorded._graph is None
        recorded._inputs = [steps.copied(x) for x in inputs]
        recorded._outputs = in_tensors(recorded._inputs)
        recorded._graph = FakeGraph(recorded)
        return True

    monkeypatch.setattr(recorded, "_record", record)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(steps, "_is_recordable", lambda _: True)
    monkeypatch.setattr(steps, "_recording_of", lambda _: recorded)
    model = chain()
    with as_on_a_device():
        used = checked(model)
        for _ in range(30):
            first, second = model(IMAGES), model(IMAGES)
            (first + second).sum().backward()
            original_of(model.layers[2]).data.mul_(1.3)
    assert len(used) == 2 * 30 * 4
    assert recorded._graph.replays == 2 * 30


NOT_LAUNCHED = (
    "_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "imag", "permute",
    "real", "reshape", "select", "slice", "split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
    "view_as_complex", "view_as_real",
)  # fmt: skip
"""Names of the operations that are views."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names[name] += name not in NOT_LAUNCHED
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def as_on_a_device() -> Iterator[None]:
    """Context manager in which tensors of the CPU are computed by torch's operations, as those of a GPU are."""
    with (
        mock.patch.object(TorchArrays, "numpy_view", return_value=False),
        mock.patch.object(TorchArrays, "asynchronous", return_value=True),
    ):
        yield


@pytest.mark.parametrize(("make", "most"), [(lambda: nn.Conv2d(5, 5, 3), 198), (lambda: nn.Linear(64, 64), 116)])
def test_a_step_launches_few_operations(make: Callable[[], Any], most: int) -> None:
    model = nn.Sequential(make())
    count = Launches()
    with as_on_a_device(), torch.no_grad():
        specnorm_torch.spectral_norm(model)
        constraints = [x for x in model.modules() if isinstance(x, SpectralNorm)]
        inputs = [x.next_input(x.original) for x in constraints if x.original is not None]
        steps.take_usual_steps(inputs)  # tables are copied to the device once
        with count:
            steps.take_usual_steps(inputs)
    assert 0 < sum(count.names.values()) <= most


def test_a_step_on_a_device_copies_no_number_from_the_host() -> None:
    """A copy could not be recorded as a CUDA graph."""
    layers = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 8, 4, stride=2), nn.Conv1d(4, 4, 3), nn.Linear(6, 5)
    model = nn.ModuleList(layers)
    count = Launches()
    with as_on_a_device():
        specnorm_torch.spectral_norm(model)
        (begin,), (end,) = model._forward_pre_hooks.values(), model._forward_hooks.values()
        for step in range(21):
            model.zero_grad()
            with count if step == 20 else contextlib.nullcontext():
                begin(model, ())
                sum(x.weight.sum() for x in layers).backward()
                end(model, (), None)
    assert count.names
    assert not count.names["lift_fresh"]


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: nothing is recorded")
LAYERS: dict[str, Callable[[], Any]] = {
    "strided": lambda: nn.Conv2d(4, 8, 4, stride=2), "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "transposed": lambda: nn.ConvTranspose2d(8, 4, 4, stride=2), "wide": lambda: nn.Conv2d(96, 80, 3),
    "1-D, dilated": lambda: nn.Conv1d(6, 6, 5, dilation=2), "linear": lambda: nn.Linear(40, 30),
}  # fmt: skip


@pytest.fixture
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@needs_a_gpu
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("kind", LAYERS)
def test_a_recorded_step_holds_the_norm(kind: str) -> None:
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(LAYERS[kind]().cuda())
    for _ in range(40):
        found = specnorm.enclose(layer.weight.detach().cpu(), rtol=1e-3, **specnorm_torch.geometry_of(layer))
        assert 0.985 < found.lower < 1.015
        original_of(layer).data.add_(1e-3 * torch.randn_like(original_of(layer)))


@needs_a_gpu
@pytest.mark.usefixtures("strict")
def test_a_recorded_model_is_a_model_on_the_cpu() -> None:
    """Weights and gradients of ten layers with odd orders, and changes through ``.data``."""
    model = chain(10).cuda()
    images = IMAGES.cuda()
    used = checked(model)
    for j in range(40):
        model.between = (lambda: model.layers[9](images)) if j % 3 else (lambda: None)
        (model(images) - model(2 * images)).sum().backward()
        for layer in model.layers:
            weight, gradient = original_of(layer), original_of(layer).grad
            # Scaling does not change the product of the weight with its gradient: the constraint is of degree zero.
            assert abs(float((gradient * weight).sum())) < 1e-3 * float(gradient.norm() * weight.norm())
            weight.grad = None
            weight.data.mul_(1.0 + 0.5 * float(torch.rand(())))
    assert len(used) >= 40 * 20


@needs_a_gpu
def test_a_recording_that_fails_is_told_and_breaks_nothing() -> None:
    layer: Any = specnorm_torch.spectral_norm(nn.Conv2d(4, 4, 3).cuda())
    constraint = constraint_of(layer)
    inputs = [constraint.next_input(constraint.original)]

    def reading(inputs: Any) -> Any:
        found = steps.take_plain_steps(inputs)
        float(found[0].factor)
        return found

    with torch.no_grad():
        (direct,) = steps.take_plain_steps(inputs)
        with pytest.warns(UserWarning, match="could not be recorded"):
            (found,) = steps.Recorded(reading)(inputs)
    assert float(found.factor) == float(direct.factor)
    assert torch.randn(3, device="cuda").isfinite().all()


@needs_a_gpu
def test_a_recording_of_the_caller_takes_the_step_in() -> None:
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(nn.Conv2d(4, 4, 3).cuda())
    aside = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(aside):
        for _ in range(40):
            _ = layer.weight
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=aside):
        weight = layer.weight
    graph.replay()
    torch.cuda.synchronize()
    check(weight.cpu())
