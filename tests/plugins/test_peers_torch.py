"""Steps of a model's equal layers that are taken together: each use is as if the layer were alone."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import specnorm
from specnorm.methods import Completion, SymbolNorm, TensorNorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from specnorm_torch import peers  # noqa: E402

nn: Any = torch.nn
parametrize = torch.nn.utils.parametrize
pytestmark = pytest.mark.usefixtures("fresh_torch")


def chain(count: int = 4, channels: int = 5) -> Any:
    """Equal convolutions, each constrained with the others."""
    torch.manual_seed(0)
    return specnorm_torch.spectral_norm(
        nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(count)))
    )


def constraint_of(layer: Any) -> Any:
    return layer.parametrizations.weight[0]


def original_of(layer: Any) -> Any:
    return layer.parametrizations.weight.original


class Watch:
    """Compares each weight that is used in training, and the state after it, with a step of `specnorm.track`.

    Parameters
    ----------
    model : Module
        Its constrained layers are watched.
    passes : int
        Forward passes of each layer so far; torch makes one when it registers a parametrisation.
    """

    def __init__(self, model: Any, passes: int = 1) -> None:
        self.uses: Counter[str] = Counter()
        for name, layer in model.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                self._watch(name, layer, passes)

    def _watch(self, name: str, layer: Any, passes: int) -> None:
        before: list[dict[str, Any]] = []

        def note(_: Any, __: Any) -> None:
            before.append({key: x.clone() for key, x in constraint_of(layer).state.items()})

        def compare(_: Any, __: Any, weight: Any) -> None:
            if not layer.training:
                return
            sweeps = 3 if passes + self.uses[name] < 32 else 1
            self.uses[name] += 1
            original = original_of(layer).detach()
            geometry = specnorm_torch.geometry_of(layer)
            constraint = constraint_of(layer)
            value, after = specnorm.track(original, constraint.method, before.pop(), sweeps=sweeps, **geometry)
            torch.testing.assert_close(weight.detach(), original / value, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(constraint.state, after, rtol=1e-4, atol=1e-5)

        layer.parametrizations.weight.register_forward_pre_hook(note)
        layer.parametrizations.weight.register_forward_hook(compare)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of layers whose steps were taken together, one for each step that was taken."""
    sizes: list[int] = []
    take_steps = peers._take_steps

    def counted(inputs: list[Any], program: Any) -> Any:
        sizes.append(len(inputs))
        return take_steps(inputs, program)

    monkeypatch.setattr(peers, "_take_steps", counted)
    return sizes


@torch.no_grad()  # type: ignore[untyped-decorator]
def shift(model: Any) -> None:
    """Change all weights, as an optimiser does."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            original_of(layer).add_(0.02 * torch.randn_like(original_of(layer)))


# -- stale steps -----------------------------------------------------------------------------------------------------
def in_place(layer: Any) -> None:
    with torch.no_grad():
        original_of(layer)[0, 0, 0, 0] += 3


def through_data(layer: Any) -> None:
    original_of(layer).data[0, 0, 0, 0] += 3


def through_numpy(layer: Any) -> None:
    original_of(layer).detach().numpy()[0, 0, 0, 0] += 3


def by_an_optimiser(layer: Any) -> None:
    layer.weight.square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.5).step()


def by_a_new_parameter(layer: Any) -> None:
    layer.parametrizations.weight.original = nn.Parameter(torch.randn_like(original_of(layer)))


def by_assigning(layer: Any) -> None:
    layer.weight = torch.randn_like(original_of(layer))


def by_loading(layer: Any) -> None:
    torch.manual_seed(9)
    other = specnorm_torch.spectral_norm(nn.Conv2d(5, 5, 3, padding=1))
    layer.load_state_dict(other.state_dict())


def by_loading_the_state(layer: Any) -> None:
    """Vectors alone: the weight is as it was."""
    with torch.no_grad():
        constraint_of(layer).vectors.copy_(constraint_of(layer).vectors.flip(0, 1, 2, 3))


def through_data_of_the_state(layer: Any) -> None:
    constraint_of(layer).vectors.data.mul_(-1)


def by_casting(layer: Any) -> None:
    layer.double()


CHANGES = [
    in_place, through_data, through_numpy, by_an_optimiser, by_a_new_parameter, by_assigning, by_loading,
    by_loading_the_state, through_data_of_the_state, by_casting,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda x: x.__name__)
def test_no_stale_step_is_used(change: Callable[[Any], None], stacks: list[int]) -> None:
    """The first layer's use takes the steps of all; then one of the others is changed."""
    model = chain()
    watch = Watch(model)
    model[0].weight.sum().backward()
    assert stacks == [4]
    change(model[2])
    for layer in model:
        layer.weight.sum().backward()
    assert min(watch.uses.values()) >= 1
    assert len(stacks) >= 2


def test_a_bound_that_is_changed_counts_at_once() -> None:
    model = chain()
    model[0].weight.sum().backward()
    constraint_of(model[1]).bound = 0.25
    norm = specnorm.enclose(model[1].weight.detach(), padding=1)
    assert float(norm.upper) == pytest.approx(0.25, rel=1e-2)


# -- together as alone -------------------------------------------------------------------------------------------------
class Residual(nn.Module):  # type: ignore[misc]
    """Equal layers in two widths, a strided one, a pointwise one and a dense one."""

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


def constrained_alone(model: Any, **options: Any) -> Any:
    """Constrain layer by layer, so that no layer has peers."""
    for layer in list(model.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            specnorm_torch.spectral_norm(layer, **options)
    return model


@pytest.mark.parametrize(
    ("method", "passes"), [(SymbolNorm(), 40), (TensorNorm(), 8), (Completion(), 4)], ids=lambda x: str(x)[:6]
)
def test_together_as_alone(method: Any, passes: int, stacks: list[int]) -> None:
    """Gradients and states in training. A step of `Completion` depends on its neighbours: it takes none together."""
    torch.manual_seed(0)
    together = Residual()
    alone = constrained_alone(copy.deepcopy(together), method=method)
    specnorm_torch.spectral_norm(together, method=method)
    assert together.state_dict().keys() == alone.state_dict().keys()
    data = torch.randn(8, 4, 6, 6)
    optimisers = [torch.optim.SGD(x.parameters(), lr=0.02, momentum=0.5) for x in (together, alone)]
    for _ in range(passes):
        for model, optimiser in zip((together, alone), optimisers, strict=True):
            optimiser.zero_grad()
            model(data).square().sum().backward()
        pairs = zip(together.parameters(), alone.parameters(), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4 * float(other.grad.abs().max()))
        for optimiser in optimisers:
            optimiser.step()
    # The strided and the pointwise layer have no peers.
    assert stacks == ([] if method.name == "completion" else passes * [4, 3, 2])
    for name, x in alone.state_dict().items():
        if not name.endswith("_extra_state"):
            torch.testing.assert_close(together.state_dict()[name], x, rtol=1e-3, atol=1e-4)


# -- uses that are not one a pass --------------------------------------------------------------------------------------
def used_twice(model: Any) -> None:
    for layer in (*model, *model, model[1]):
        layer.weight.sum().backward()


def used_in_reverse(model: Any) -> None:
    for layer in reversed(model):
        layer.weight.sum().backward()


def used_between_modes(model: Any) -> None:
    model[0].weight.sum().backward()
    model.eval()
    for layer in model:
        layer.weight.sum().backward()
    model.train()
    for layer in model:
        layer.weight.sum().backward()


def used_in_inference_mode(model: Any) -> None:
    """What is taken ahead there can be differentiated later."""
    with torch.inference_mode():
        model[0](torch.ones(1, 5, 4, 4))
    for layer in model[1:]:
        layer.weight.sum().backward()


def used_in_checkpoints(model: Any) -> None:
    data = torch.ones(1, 5, 4, 4, requires_grad=True)
    hidden = torch.utils.checkpoint.checkpoint(model[:2], data, use_reentrant=False)
    model[2:](hidden).sum().backward()


def used_while_cached(model: Any) -> None:
    with parametrize.cached():
        for layer in (*model, *model):
            layer.weight.sum().backward(retain_graph=True)


def used_through_functional_call(model: Any) -> None:
    """With other weights and states, some of them those of other layers."""
    model[0].weight.sum().backward()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    other = {name: x.detach() + 0.1 for name, x in tensors.items() if name.startswith("1.") and x.is_floating_point()}
    torch.func.functional_call(model, other, torch.ones(1, 5, 4, 4)).sum().backward()
    for layer in model:
        layer.weight.sum().backward()


def used_under_vmap(model: Any) -> None:
    """One layer, with a batch of weights; another one's weight is plain."""
    model[0].weight.sum().backward()
    batch = torch.randn(3, 5, 5, 3, 3)

    def call(weight: Any) -> Any:
        weights = {"parametrizations.weight.original": weight}
        return torch.func.functional_call(model[2], weights, torch.ones(1, 5, 4, 4)).sum()

    with torch.no_grad():
        before = {name: x.clone() for name, x in constraint_of(model[2]).state.items()}
    model[2].eval()
    torch.func.vmap(call)(batch)
    model[2].train()
    assert all(torch.equal(x, before[name]) for name, x in constraint_of(model[2]).state.items())
    for layer in model:
        layer.weight.sum().backward()


USES = [
    used_twice, used_in_reverse, used_between_modes, used_in_inference_mode, used_in_checkpoints, used_while_cached,
    used_through_functional_call, used_under_vmap,
]  # fmt: skip


@pytest.mark.parametrize("use", USES, ids=lambda x: x.__name__)
def test_every_use_is_a_step_of_its_own(use: Callable[[Any], None]) -> None:
    model = chain()
    Watch(model)
    for _ in range(3):
        use(model)
        shift(model)


def test_a_layer_that_is_not_used_does_not_move(stacks: list[int]) -> None:
    """And its step is taken once ahead, not in each pass."""
    model = chain()
    before = {name: x.clone() for name, x in constraint_of(model[3]).state.items()}
    for _ in range(5):
        for layer in model[:3]:
            layer.weight.sum().backward()
        shift(model[:3])
    assert all(torch.equal(x, before[name]) for name, x in constraint_of(model[3]).state.items())
    assert constraint_of(model[3])._passes == 1
    assert stacks == [4, 3, 3, 3, 3]


def test_steps_in_vain_are_few(stacks: list[int]) -> None:
    """Two halves of a model that are trained in turn, while all weights change in each step."""
    model = chain(6)
    for j in range(60):
        for layer in model[:3] if j % 2 else model[3:]:
            layer.weight.sum().backward()
        shift(model)
    used = 3 * 60
    assert sum(stacks) < 1.25 * used


def test_an_accumulated_gradient_takes_steps_together(stacks: list[int]) -> None:
    model = chain()
    for _ in range(4):
        for _ in range(3):
            model(torch.ones(1, 5, 4, 4)).sum().backward()
        shift(model)
    assert stacks == 12 * [4]


# -- copies and removed constraints -----------------------------------------------------------------------------------
def test_a_copy_has_peers_of_its_own(stacks: list[int]) -> None:
    model = chain()
    model[0].weight.sum().backward()
    twin = copy.deepcopy(model)
    part = copy.deepcopy(model[1])
    for other, passes in ((model, 1), (twin, 1)):
        Watch(other, passes)
    shift(twin)
    stacks.clear()
    for layer in twin:
        layer.weight.sum().backward()
    assert stacks == [4]
    for layer in model[1:]:
        layer.weight.sum().backward()
    assert stacks == [4]
    part.weight.sum().backward()
    assert stacks == [4, 1]


def test_pickled_constraints_have_peers(stacks: list[int]) -> None:
    """As lists; torch stores parametrised modules as state dicts alone, and says so."""
    model = chain()
    model[0].weight.sum().backward()
    lists = [layer.parametrizations.weight for layer in model]
    twins = pickle.loads(pickle.dumps(lists))
    stacks.clear()
    for twin, lst in zip(twins, lists, strict=True):
        torch.testing.assert_close(twin[0].state, lst[0].state)
        twin().sum().backward()
    assert stacks == [4]


def test_a_removed_constraint_is_forgotten(stacks: list[int]) -> None:
    model = chain()
    reference = weakref.ref(constraint_of(model[1]))
    specnorm_torch.bake_(model[1])
    gc.collect()
    assert reference() is None
    Watch(model)
    for layer in model:
        layer.weight.sum().backward()
    assert stacks == [3]


def test_constraints_of_several_calls_are_strangers(stacks: list[int]) -> None:
    """A layer that two models share has the peers of the call that constrained it."""
    model = chain(3)
    other = nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1))
    specnorm_torch.spectral_norm(other)
    both = nn.Sequential(model[0], *other, model[1])
    Watch(both)
    for layer in both:
        layer.weight.sum().backward()
    assert stacks == [3, 2]


def test_modes_dtypes_and_frozen_layers_are_kept_apart(stacks: list[int]) -> None:
    model = chain(6)
    model[1].eval()
    model[2].double()
    model[3].requires_grad_(False)
    Watch(model)
    for layer in model:
        layer.weight.sum()
    assert stacks == [4, 1]
    shift(model.double().train())
    stacks.clear()
    for layer in model:
        layer.weight.sum()
    assert sum(stacks) == 6


def test_a_layer_of_nan_leaves_the_others_alone() -> None:
    model = chain()
    with torch.no_grad():
        original_of(model[1]).fill_(torch.nan)
    Watch(nn.Sequential(model[0], *model[2:]))
    for _ in range(3):
        assert [bool(layer.weight.isfinite().all()) for layer in model] == [True, False, True, True]


def test_wide_kernels_and_those_of_three_axes_step_alone(stacks: list[int]) -> None:
    torch.manual_seed(0)
    wide = [nn.Conv2d(128, 128, 3) for _ in range(2)]
    cubic = [nn.Conv3d(4, 4, 3) for _ in range(2)]
    model = specnorm_torch.spectral_norm(nn.ModuleList(wide + cubic))
    for layer in model:
        layer.weight.sum().backward()
    assert stacks == [1, 1, 1, 1]


def test_replicas_step_alone(stacks: list[int]) -> None:
    """As those of `DataParallel`, which share the attributes and have a weight of their own."""
    model = chain()
    model[0].weight.sum().backward()
    replica = model[1]._replicate_for_data_parallel()
    lst = model[1].parametrizations.weight._replicate_for_data_parallel()
    constraint = constraint_of(model[1])._replicate_for_data_parallel()
    del replica, lst
    weight = original_of(model[1]).detach().clone().requires_grad_()
    before = {name: x.clone() for name, x in constraint.state.items()}
    value, _ = specnorm.track(weight.detach(), SymbolNorm(), before, sweeps=3, padding=1)
    torch.testing.assert_close(constraint(weight), weight / value)
    assert stacks == [4]


def test_two_threads_use_one_model() -> None:
    """Each weight that is used is near the bound, as without peers: the states are those of some order of the uses."""
    model = chain()
    for _ in range(32):
        model(torch.ones(1, 5, 4, 4))
    norms: list[float] = []

    def run() -> None:
        for _ in range(10):
            for layer in model:
                norm = torch.linalg.matrix_norm(layer.weight.detach().sum((2, 3)), 2)
                norms.append(float(norm))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(norms) == 3 * 10 * 4
    # The symbol at frequency 0 is no larger than the norm.
    assert max(norms) <= 1 + 1e-3
