"""`spectral_norm` in torch: does it hold in training, for weights that changed otherwise, and in exported models?"""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import specnorm
from specnorm import methods
from specnorm.errors import MethodError
from specnorm.methods import SymbolNorm, TensorNorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing

nn: Any = torch.nn
parametrize = torch.nn.utils.parametrize
pytestmark = pytest.mark.usefixtures("fresh_torch")


def classifier() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5),
    )  # fmt: skip


def constrained(**options: Any) -> Any:
    return specnorm_torch.spectral_norm(classifier(), **options)


def layers(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            yield name, module


def enclosed(layer: Any, weight: Any) -> Any:
    return specnorm.enclose(weight.detach().float(), **specnorm_torch.geometry_of(layer))


def check_at_bound(layer: Any, weight: Any, bound: float = 1.0) -> None:
    norm = enclosed(layer, weight)
    assert 0.99 * bound <= float(norm.lower)
    assert float(norm.upper) <= 1.01 * bound


def batch() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 3, 8, 8, generator=generator), torch.randint(5, (64,), generator=generator)


def train(model: Any, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    data, labels = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(10 * model(data), labels).backward()
        optimizer.step()


def recorded(model: Any) -> list[tuple[Any, Any]]:
    used: list[tuple[Any, Any]] = []
    for _, layer in layers(model):

        def record(_: Any, __: Any, weight: Any, layer: Any = layer) -> None:
            used.append((layer, weight.detach().clone()))

        layer.parametrizations.weight.register_forward_hook(record)
    return used


# -- in training -------------------------------------------------------------------------------------------------
def test_the_weights_in_use_stay_at_the_bound() -> None:
    """Each weight of 40 forward passes; of the same run by the tensor norm, which follows one maximum, every fifth."""
    worst = {}
    for method in (SymbolNorm(), TensorNorm(proven=False)):
        torch.manual_seed(0)
        model = constrained(method=method)
        used = recorded(model)
        train(model, 40)
        assert len(used) == 4 * 40
        counted = used if method.name == "symbol" else used[::5]
        norms = [float(enclosed(layer, weight).lower) for layer, weight in counted]
        worst[method.name] = max(norms)
        if method.name == "symbol":
            assert min(norms) >= 0.99
    assert worst["symbol"] <= 1.01
    assert worst["tn"] > 1.1


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_have_the_same_gradients(use_reentrant: bool) -> None:
    """What is computed again in the backward pass has the step that it had, of the model or of a layer used alone."""
    torch.manual_seed(0)
    plain = constrained()
    data = batch()[0].requires_grad_()
    again = copy.deepcopy(plain)
    for whole in (True, False, True):
        model: Any = again if whole else nn.Sequential(*again)
        (plain if whole else nn.Sequential(*plain))(data).square().sum().backward()
        torch.utils.checkpoint.checkpoint(model, data, use_reentrant=use_reentrant).square().sum().backward()
        step = [1e-2 * torch.randn_like(x) for x in plain.parameters()]
        for one, other, change in zip(plain.parameters(), again.parameters(), step, strict=True):
            assert torch.equal(one.grad, other.grad)
            one.grad = other.grad = None
            with torch.no_grad():
                one.add_(change)
                other.add_(change)
    assert [
        (name, x)
        for name, x in plain.state_dict().items()
        if "vectors" in name
        if not torch.equal(x, again.state_dict()[name])
    ] == []


# -- weights that no step has made ---------------------------------------------------------------------------------
def loaded(model: Any) -> Any:
    torch.manual_seed(7)
    other = {name: x for name, x in constrained().state_dict().items() if name.endswith("original")}
    model.eval()
    model.load_state_dict(other, strict=False)
    return model


def loaded_in_training(model: Any) -> Any:
    loaded(model).train()
    return model


def assigned(model: Any) -> Any:
    torch.manual_seed(7)
    other = {name: x for name, x in constrained().state_dict().items() if name.endswith("original")}
    model.load_state_dict(other, strict=False, assign=True)
    return model


@torch.no_grad()  # type: ignore[untyped-decorator]
def edited(model: Any) -> Any:
    model.eval()
    for _, layer in layers(model):
        original = layer.parametrizations.weight.original
        original.copy_(torch.randn_like(original))
    return model


def loaded_without_vectors(model: Any) -> Any:
    """Weights with zeros and NaN in place of the vectors, as of a model whose buffers were never filled."""
    names = [name for name in model.state_dict() if name.endswith("vectors")]
    empty = {name: torch.full_like(model.state_dict()[name], (0.0, math.nan)[j % 2]) for j, name in enumerate(names)}
    model.load_state_dict(model.state_dict() | empty)
    return model


def mean_of_two(model: Any) -> Any:
    """By a mean of state dicts, whose settings had as many bytes as the numbers of passes have digits."""
    torch.manual_seed(7)
    other = constrained()
    train(other, 3)
    one, two = model.state_dict(), other.state_dict()
    model.load_state_dict({name: 0.5 * one[name] + 0.5 * two[name] for name in one})
    return model


def assigned_from_meta(model: Any) -> Any:
    other = constrained().to("meta")
    other.load_state_dict(model.state_dict(), assign=True)
    return other


@torch.no_grad()  # type: ignore[untyped-decorator]
def drawn_again(model: Any) -> Any:
    """Outputs and inputs of some layers in turn, in the middle of a training."""
    for (_, layer), (rows, columns) in zip(layers(model), ((8, 3), (2, 8), (8, 2), (1, 128)), strict=True):
        part = layer.parametrizations.weight.original[:rows, :columns]
        part.copy_(part.std() * torch.randn_like(part))
    return model


NEW_WEIGHTS = {x.__name__: x for x in (loaded, assigned, edited)}
JUMPS = (loaded_in_training, loaded_without_vectors, assigned, mean_of_two, assigned_from_meta, drawn_again)
IN_TRAINING = {x.__name__: x for x in JUMPS}


@pytest.mark.parametrize("change", NEW_WEIGHTS)
def test_the_first_forward_pass_of_a_new_weight_is_right(change: str) -> None:
    model = constrained()
    train(model, 3)
    model = NEW_WEIGHTS[change](model)
    model.eval()
    used = recorded(model)
    with torch.no_grad():
        model(batch()[0])
    for layer, weight in used:
        check_at_bound(layer, weight)


@pytest.mark.parametrize("change", IN_TRAINING)
@pytest.mark.sampled(2)
def test_the_next_step_of_a_weight_that_jumped_is_right(change: str) -> None:
    """In train(), after the first passes, when one sweep a pass would need tens of passes to follow."""
    model = constrained()
    train(model, 40)
    model = IN_TRAINING[change](model)
    used = recorded(model)
    model(batch()[0])
    for layer, weight in used:
        check_at_bound(layer, weight)


def test_eval_moves_nothing() -> None:
    model = constrained().eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    data, _ = batch()
    assert torch.equal(model(data), model(data))
    assert [(name, x) for name, x in model.state_dict().items() if not torch.equal(x, before[name])] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_of_half_precision(dtype: Any) -> None:
    """Rounding of the weights aside, at the bound; the state is of single precision."""
    model = specnorm_torch.spectral_norm(classifier().to(dtype))
    used = recorded(model)
    model(batch()[0].to(dtype)).sum().backward()
    for layer, weight in used:
        assert weight.dtype == dtype
        check_at_bound(layer, weight)
        assert layer.parametrizations.weight.original.grad.isfinite().all()
        assert {x.dtype for x in layer.parametrizations.weight[0].state} <= {torch.float32}


@pytest.mark.parametrize("method", [methods.Power(), methods.Enclose(), methods.Grid(), methods.Completion()])
def test_methods_that_cannot_constrain_are_refused_in_words_of_constraints(method: Any) -> None:
    layer = nn.Conv2d(3, 4, 3)
    for refused in (
        lambda: specnorm_torch.spectral_norm(layer, method=method),
        lambda: specnorm_torch.SpectralPenalty(nn.Sequential(layer), method=method),
    ):
        with pytest.raises(MethodError) as refusal:
            refused()
        message = str(refusal.value)
        assert message.startswith(f"method={method!r}")
        assert "power_norm" not in message
        named = set(re.findall(r"(\w+)\(\)", message)) - {"Power"}
        assert named - {type(method).__name__} == {"SymbolNorm", "TensorNorm", "Gram"}
        assert "SpectralBall" in message
    assert "parametrizations" not in dict(layer.named_modules())
    for name in named - {type(method).__name__}:
        specnorm_torch.spectral_norm(nn.Conv2d(3, 4, 3), method=getattr(methods, name)())


@pytest.mark.parametrize("only_shrink", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_weight_makes_the_constrained_weight_nan(bad: float, only_shrink: bool) -> None:
    """As in torch's own `spectral_norm`: no error in the middle of a loop, and no finite numbers beside NaN."""
    layer = specnorm_torch.spectral_norm(nn.Conv2d(3, 4, 3), only_shrink=only_shrink)
    parametrisations: Any = layer.parametrizations
    with torch.no_grad():
        parametrisations.weight.original[0, 0, 0, 0] = bad
    for mode in (True, False):
        assert layer.train(mode).weight.isnan().all()


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Linear(3, 4)])
def test_a_model_in_channels_last_is_constrained_too(layer: Any) -> None:
    """A buffer of five axes was refused by torch: "required rank 4 tensor to use channels_last format"."""
    model = specnorm_torch.spectral_norm(nn.Sequential(layer))
    before = {name: x.clone() for name, x in model.named_buffers()}
    model.to(memory_format=torch.channels_last)
    for name, x in model.named_buffers():
        assert torch.equal(x, before[name])
    check_at_bound(model[0], model[0].weight)
    model.share_memory()
    assert [x for x in model.buffers() if not x.is_shared()] == []


def test_the_parametrisation_can_be_pickled() -> None:
    """By itself: torch stores parametrised modules as state dicts alone, and says so."""
    layer = specnorm_torch.spectral_norm(nn.Conv2d(3, 4, 3)).eval()
    parametrisation = layer.parametrizations.weight[0]
    twin = pickle.loads(pickle.dumps(parametrisation))
    original = layer.parametrizations.weight.original
    torch.testing.assert_close(twin(original), layer.weight)


# -- whole models --------------------------------------------------------------------------------------------------
class Mixed(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        self.memory = nn.LSTM(6, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(6, 4, 2, stride=2)
        self.norm = nn.LayerNorm(4)

    def forward(self, words: Any) -> Any:
        x, _ = self.memory(self.body(self.embedding(words)))
        x, _ = self.attention(x, x, x)
        return self.norm(self.up(x.mT).mT)


def test_a_whole_model() -> None:
    model = Mixed()
    with pytest.warns(UserWarning, match="weights of memory, attention") as caught:
        assert specnorm_torch.spectral_norm(model) is model
    assert "norm" not in str(caught[0].message).split("leaves the weights of")[1].split("as they are")[0]
    names = [name for name, x in model.named_modules() if parametrize.is_parametrized(x)]
    assert names == ["embedding", "body.0", "body.2", "attention.out_proj", "up"]
    words = torch.arange(8).reshape(2, 4)
    model(words).sum().backward()
    before = model.eval()(words)
    assert specnorm_torch.bake_(model) == [f"{name}.weight" for name in names]
    assert [x for x in model.modules() if parametrize.is_parametrized(x)] == []
    torch.testing.assert_close(model(words), before, rtol=0, atol=0)
    for layer in (model.body[0], model.body[2]):
        check_at_bound(layer, layer.weight)
    assert float(specnorm.enclose(model.embedding.weight.detach()).lower) == pytest.approx(1, abs=5e-3)


def test_a_pattern_chooses_layers() -> None:
    model = Mixed()
    with pytest.warns(UserWarning, match=r"embedding, memory, attention.* and 2 more|body\.2"):
        specnorm_torch.spectral_norm(model, layers="body.0")
    assert [name for name, x in model.named_modules() if parametrize.is_parametrized(x)] == ["body.0"]


def test_nothing_is_left_out_in_silence_or_named_for_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        specnorm_torch.spectral_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))


OTHERS = {
    "this one": specnorm_torch.spectral_norm,
    "torch's": torch.nn.utils.parametrizations.spectral_norm,
    "torch's old one": torch.nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("first", OTHERS)
def test_a_second_spectral_norm_is_refused(first: str) -> None:
    """By name, and nothing is changed: neither that layer, nor the state beside it, nor the layers before it."""
    model = classifier()
    OTHERS[first](model[4])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(MethodError, match=r"4\.weight has a spectral norm already.*bake_"):
        specnorm_torch.spectral_norm(model)
    with pytest.raises(MethodError, match=r"Conv2d\.weight has a spectral norm already"):
        specnorm_torch.spectral_norm(model[4])
    assert not parametrize.is_parametrized(model[0])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert [(name, x) for name, x in after.items() if not torch.equal(x, before[name])] == []
    # As the message says.
    specnorm_torch.bake_(model)
    specnorm_torch.spectral_norm(model)
    model(batch()[0])


def test_tied_layers_share_one_parameter() -> None:
    """Each is divided by its own norm: of one weight, another stride's is another."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, stride=2))
    model[1].weight = model[0].weight
    specnorm_torch.spectral_norm(model)
    originals = [layer.parametrizations.weight.original for layer in model]
    assert originals[0] is originals[1]
    assert len(list(model.parameters())) == 3
    used = recorded(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(1, 4, 8, 8)).square().sum().backward()
        optimizer.step()
    for layer, weight in used:
        check_at_bound(layer, weight)


def test_on_top_of_another_parametrisation() -> None:
    """What that one computes is scaled, also after a change in eval(); such a weight is not exported."""
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
    specnorm_torch.spectral_norm(layer)
    check_at_bound(layer, layer.weight)
    layer.eval()
    with torch.no_grad():
        layer.parametrizations.weight.original1.copy_(torch.randn(4, 3, 3, 3))
    check_at_bound(layer, layer.weight)
    with pytest.raises(Exception, match=r"specnorm_torch\.baked"):
        torch.export.export(layer, (torch.ones(1, 3, 5, 5),))


# -- export --------------------------------------------------------------------------------------------------------
def onnx_outputs(path: Path, data: Any) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: data.numpy()})
    return torch.from_numpy(outputs)


@pytest.fixture
def trained() -> Any:
    model = constrained()
    train(model, 3)
    return edited(model).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_to_onnx(trained: Any, tmp_path: Path) -> None:
    """With default arguments: a file whose outputs are the model's, of the constrained weights alone."""
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    data, _ = batch()
    expected = trained(data).detach()
    file = tmp_path / "model.onnx"
    torch.onnx.export(trained, (data,), str(file))
    torch.testing.assert_close(onnx_outputs(file, data), expected, rtol=1e-5, atol=1e-6)
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert operators <= {"Conv", "Relu", "Reshape", "Flatten", "Gemm", "MatMul", "Add", "Mul", "Identity", "Cast"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exported_by_torch(trained: Any, dtype: Any) -> None:
    """To the bit: the constant of an exported weight was rounded, to bfloat16 in half precision."""
    model, data = trained.to(dtype).eval(), batch()[0].to(dtype)
    assert torch.equal(torch.export.export(model, (data,)).module()(data), model(data))


@torch.no_grad()  # type: ignore[untyped-decorator]
def test_buffers_that_are_copied_change_no_exported_weight() -> None:
    """As many averages of weights do: the constant of exported weights was a buffer, here then another model's."""
    model, (data, _) = constrained().eval(), batch()
    for own, other in zip(model.buffers(), constrained().buffers(), strict=True):
        own.copy_(other)
    torch.testing.assert_close(torch.export.export(model, (data,)).module()(data), model(data))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TracerWarning", "ignore::torch.jit.TracerWarning")
def test_traced_by_jit(trained: Any) -> None:
    data, _ = batch()
    expected = trained(data)
    torch.testing.assert_close(torch.jit.trace(trained, data)(data), expected)
    # Without a forward pass of the weights as they are.
    again = edited(trained)
    torch.testing.assert_close(torch.jit.trace(again, data)(data), again(data))


def test_a_weight_that_changed_since_eval_is_not_exported() -> None:
    model = constrained().eval()
    model.load_state_dict(constrained().state_dict())
    data, _ = batch()
    with pytest.raises(Exception, match=r"Call model\.eval\(\) again, or run the model once"):
        torch.export.export(model, (data,))
    model.eval()
    torch.testing.assert_close(torch.export.export(model, (data,)).module()(data), model(data))
