"""The end of a training run: what is certified is what the model uses then; kernels that are computed, made plain."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import specnorm
from specnorm.errors import MethodError

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402
import specnorm_train.torch.certifying  # noqa: E402 - after the skip where torch is missing

nn = torch.nn
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.usefixtures("seeded_torch"),
]


def hooked() -> Any:
    model = nn.Sequential(
        torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU(),
        torch.nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), nn.Flatten(),
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(4 * 4 * 4, 5)),
    )  # fmt: skip
    # What the hooks compute hangs on the graph of a forward pass.
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    return model


def test_nothing_is_changed_when_a_later_layer_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.nn.utils.weight_norm(nn.Linear(4, 4)))
    specnorm_torch.spectral_norm(model[0])
    before = copy.deepcopy(model[0].state_dict())
    with pytest.raises(MethodError, match=r"1\.weight: .* old-style weight_norm hook .* bake"):
        specnorm_torch.rescale_(model, 0.5)
    after = model[0].state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_everything_is_put_back_when_the_last_check_fails() -> None:
    """A parameter that is read through a copy: what is written to it is not what is used."""

    class Stale(torch.nn.Linear):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(4, 4)
            self.cache = self.weight.detach().clone()

        def __getattribute__(self, name: str) -> Any:
            return super().__getattribute__("cache" if name == "weight" else name)

    model = nn.Sequential(specnorm_torch.spectral_norm(nn.Linear(4, 4)), Stale())
    model[1].cache = model[1].cache.requires_grad_()
    x = torch.randn(3, 4)
    before, state = model.eval()(x), list(model.state_dict())
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    original = specnorm_train.torch.certifying._ProvenKernel.write

    def write(plan: Any) -> None:
        original(plan)
        if plan.label == "1":
            with torch.no_grad():
                plan.module.cache.mul_(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specnorm_train.torch.certifying._ProvenKernel, "write", write)
        with pytest.raises(MethodError, match="1: Stale does not use the kernel"):
            specnorm_torch.rescale_(model, 0.5)
    assert list(model.state_dict()) == state
    assert [(name, value) for name, value in model.state_dict().items() if not torch.equal(kept[name], value)] == []
    assert torch.equal(model[0](x), nn.Sequential(model[0])(x))
    assert before.shape == model(x).shape


def test_the_smaller_of_two_bounds_is_that_of_both_constraints() -> None:
    layer = specnorm_torch.gram_rescaling(specnorm_torch.spectral_norm(nn.Conv2d(3, 4, 3), bound=2.0))
    assert specnorm_torch.rescale_(layer, only_shrink=False) == [""]
    assert specnorm.certify(layer.weight, 1.0)
    assert specnorm.enclose(layer.weight.detach()).lower >= 1 - 2e-3


def test_every_layer_is_brought_to_the_bound() -> None:
    """Biases stay, and a weight that two layers share is within the bound of both."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, stride=2)
    second.weight = first.weight
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), first, second, nn.Conv2d(3, 4, 1))
    with torch.no_grad():
        for x in model.parameters():
            x *= 0.1
    biases = [x.bias.clone() for x in model]
    assert specnorm_torch.rescale_(model, 2.0, only_shrink=False) == ["0", "1", "2", "3"]
    for layer, bias in zip(model, biases, strict=True):
        norm = specnorm.enclose(layer.weight.detach(), **specnorm_torch.geometry_of(layer))
        assert norm.lower <= 2.0
        assert torch.equal(layer.bias, bias)
        assert layer is second or norm.upper >= 2.0 * (1 - 2e-4)


def test_cropping_beyond_the_kernel_leaves_an_output_to_look_at() -> None:
    layer = nn.ConvTranspose1d(2, 2, 1, padding=2)
    assert specnorm_torch.rescale_(nn.Sequential(layer), 0.1) == ["0"]


@pytest.mark.parametrize("apply", [
    torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm,
    lambda x: torch.nn.utils.prune.l1_unstructured(x, "weight", 2),
])  # fmt: skip
def test_a_loaded_weight_is_that_of_the_next_call(apply: Any) -> None:
    """Old-style hooks compute it there: enclose gave 0.88 for 34, and rescale_ put back what was before loading."""
    given, model = (nn.Sequential(apply(nn.Linear(4, 4))).eval() for _ in range(2))
    given(torch.ones(1, 4))
    model.load_state_dict(given.state_dict())
    assert specnorm.certify(model[0], 1.01 * float(specnorm.enclose(given[0].weight.detach()).upper))
    specnorm_torch.rescale_(model, 100.0, bake=True)
    assert torch.equal(model[0].weight, given[0].weight)


def test_baking_changes_no_output() -> None:
    model = hooked().eval()
    x = torch.randn(2, 3, 6, 6)
    before = model(x)
    twin = specnorm_torch.baked(model)
    assert torch.equal(twin(x), before)
    assert torch.equal(twin(x), model(x)), "the model itself is as it was"
    assert [name for name in model.state_dict() if "weight_g" in name], list(model.state_dict())
    assert specnorm_torch.bake_(model) == ["0.weight", "2.weight", "4.weight"]
    assert set(model.state_dict()) == {f"{j}.{name}" for j in (0, 2, 4) for name in ("weight", "bias")}
    assert torch.equal(model(x), before)
    assert specnorm_torch.bake_(model) == []


@pytest.mark.parametrize("end", [specnorm_torch.bake_, specnorm_torch.rescale_])
def test_a_plain_model_is_loaded_without_specnorm(end: Any) -> None:
    """The constraint's hooks stayed: ``torch.load`` of the model imported specnorm, and ``torch.jit.script`` failed."""
    model = specnorm_torch.spectral_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(6, 2)))
    end(model)
    assert b"specnorm" not in pickle.dumps(model)


def test_baking_a_copy_leaves_the_model_alone() -> None:
    """Torch's own removal deletes the property from a class that both share."""
    model = nn.Sequential(torch.nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)))
    twin = copy.deepcopy(model)
    x = torch.randn(2, 4)
    assert specnorm_torch.rescale_(twin, 0.5, bake=True) == ["0"]
    assert torch.linalg.matrix_norm(model[0].weight.detach(), 2) > 0.99
    assert model(x).shape == (2, 4)


def test_a_hook_that_writes_the_weight_is_undone() -> None:
    layer = nn.Linear(3, 3)
    before = layer.weight
    values = before.detach().clone()
    layer.register_forward_pre_hook(lambda module, _: setattr(module, "weight", nn.Parameter(torch.ones(3, 3))))
    with pytest.raises(MethodError, match="does not use the kernel"):
        specnorm_torch.rescale_(layer, 0.5)
    assert layer.weight is before
    assert torch.equal(before, values)


@pytest.mark.parametrize(("dtype", "entry"), [("float32", 1e38), ("float16", 3e4)])
def test_a_layer_whose_outputs_overflow_is_rescaled(dtype: str, entry: float) -> None:
    """Infinite outputs were compared: the layer was said not to use its weight."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False)).to(getattr(torch, dtype))
    nn.init.constant_(model[0].weight, entry)
    assert specnorm_torch.rescale_(model, 1.0) == ["0"]
    assert specnorm.certify(model[0].weight.detach(), 1.0)
    assert float(model[0].weight.detach().max()) > 0.013
