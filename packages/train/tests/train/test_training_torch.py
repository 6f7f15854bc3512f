"""Training with torch: constraints, penalties, certificates, logs; through checkpoints, compilers and processes."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers.torch_compilers import COMPILERS

import specnorm
from specnorm.errors import MethodError, SecondDerivativeError, SpecnormError

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from specnorm_torch.arrays import TorchArrays  # noqa: E402
from specnorm_torch.backend import TorchBackend  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_torch")


def network() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2, bias=False), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(),
        nn.Linear(4 * 8 * 8, 5),
    )  # fmt: skip


# -- layers of every rank ----------------------------------------------------------------------------------------
RANKS: dict[str, Any] = {
    "1-D": lambda nn: (nn.Conv1d(3, 4, 5, padding=2), (12,)),
    "1-D, groups, circular": lambda nn: (nn.Conv1d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), (12,)),
    "1-D, transposed, stride, groups": lambda nn: (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, padding=1), (9,)),
    "3-D, stride, groups": lambda nn: (nn.Conv3d(4, 2, (3, 2, 1), stride=(2, 1, 1), groups=2), (5, 4, 2)),
    "3-D, transposed, stride, groups": lambda nn: (nn.ConvTranspose3d(2, 4, (3, 2, 2), stride=2, groups=2), (3, 3, 2)),
}


@pytest.mark.parametrize("case", RANKS)
def test_constraint_at_every_rank(case: str) -> None:
    """The norm over all sizes is at the bound, the matrix of the layer at a size below it and not far."""
    layer, size = RANKS[case](torch.nn)
    layer = layer.double()
    kernel, bound = layer.weight.detach().clone(), 1.5
    specnorm_torch.spectral_norm(layer, n_power_iterations=3, bound=bound)
    geometry = specnorm_torch.geometry_of(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(torch.randn_like(kernel), alpha=0.1)
        for _ in range(40):
            weight = layer.weight
    norm = specnorm.enclose(weight, **geometry)
    assert 0.99 * bound <= float(norm.lower)
    assert float(norm.upper) <= 1.01 * bound
    # As torch's: one number scales the kernel.
    ratio = weight / layer.parametrizations.weight.original.detach()
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    layer.eval()
    x = torch.zeros(1, layer.in_channels, *size, dtype=torch.float64)
    bias, layer.bias = layer.bias, None
    jacobian = torch.autograd.functional.jacobian(layer, x)
    layer.bias = bias
    norm_at_size = float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))
    assert 0.6 * bound <= norm_at_size <= float(norm.upper)


# -- states ------------------------------------------------------------------------------------------------------
@pytest.mark.nightly
def test_two_processes_keep_one_state(tmp_path: Path) -> None:
    """Data parallel on two processes: buffers of the constraint and of the penalty are broadcast like any other."""
    worker = Path(__file__).with_name("ddp_worker.py")
    command = [sys.executable, str(worker)]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    digests = [run.communicate(timeout=240)[0].strip() for run in runs]
    assert [run for run in runs if run.returncode != 0] == []
    assert len(digests[0]) == 64
    assert digests[0] == digests[1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "constrain",
    [torch.nn.utils.parametrizations.spectral_norm, torch.nn.utils.spectral_norm],
    ids=["parametrisation", "hook"],
)
def test_torchs_own_state_loads(constrain: Any) -> None:
    """Weights are taken, vectors begin anew, and one warning says so."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Embedding(9, 4)]
    fresh = copy.deepcopy(layers)
    theirs = torch.nn.Sequential(*map(constrain, copy.deepcopy(layers)))
    ours = specnorm_torch.spectral_norm(torch.nn.Sequential(*layers))
    for x in layers:
        torch.nn.init.ones_(x.parametrizations.weight.original)
    with pytest.warns(UserWarning, match="start anew") as caught:
        ours.load_state_dict(theirs.state_dict())
    assert len(caught) == 1
    originals = [x for name, x in theirs.named_parameters() if "orig" in name]
    for layer, original in zip(ours, originals, strict=True):
        assert torch.equal(layer.parametrizations.weight.original, original)
    weight = ours[0].weight.detach()
    assert float(specnorm.enclose(weight).upper) == pytest.approx(1.0, rel=1e-2)
    again = specnorm_torch.spectral_norm(torch.nn.Sequential(*map(copy.deepcopy, fresh)))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again[0].parametrizations.weight[0].vectors, ours[0].parametrizations.weight[0].vectors)


# -- penalties ---------------------------------------------------------------------------------------------------
def test_layers_of_about_one_size_are_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled up with channels of zeros: norms and gradients are those of each layer by itself."""
    nn = torch.nn

    def convolution(cin: int, cout: int, **geometry: Any) -> Any:
        return nn.Sequential(nn.Conv2d(cin, cout, 3, **geometry), nn.BatchNorm2d(cout), nn.ReLU())

    model = nn.Sequential(
        *(convolution(*c) for c in ((4, 8), (8, 8), (8, 12), (12, 64))),
        *(convolution(64, 64, groups=g) for g in (1, 2)),
        nn.ConvTranspose2d(64, 8, 2, bias=False),
        nn.ConvTranspose2d(8, 12, 2, bias=False),
    ).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 2)
            norm.running_var.uniform_(0.5, 2)
    penalty = specnorm_torch.SpectralPenalty(model)
    stacks: list[int] = []
    step = TorchBackend.step

    def counted_step(backend: Any, program: Any, kernels: Any, *rest: Any) -> Any:
        stacks.append(len(kernels))
        return step(backend, program, kernels, *rest)

    monkeypatch.setattr(TorchBackend, "step", counted_step)
    penalty().backward()
    monkeypatch.undo()
    # The four small ones are together; those with groups, and with another longer side, are not.
    assert sorted(stacks) == [1, 1, 1, 1, 4]
    together = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    norms = penalty.norms()

    def only(wanted: str, name: str, _: Any) -> bool:
        return name == wanted

    for name in penalty.names:
        alone = specnorm_torch.SpectralPenalty(model, select=partial(only, name))
        alone().backward()
        assert norms[name] == pytest.approx(alone.norms()[name], rel=1e-6)
    for name, x in model.named_parameters():
        if x.grad is not None:
            torch.testing.assert_close(together[name], x.grad, rtol=1e-3, atol=1e-4)


MERGED: dict[str, Any] = {
    "groups": lambda nn: nn.Conv2d(4, 6, 3, groups=2, bias=False),
    "transposed": lambda nn: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
    "one group": lambda nn: nn.Conv2d(4, 6, 1, bias=False),
}


@pytest.mark.parametrize("case", MERGED)
@pytest.mark.parametrize("affine", [True, False])
def test_a_layer_is_merged_with_its_batch_normalization(case: str, affine: bool) -> None:
    layer, norm = MERGED[case](torch.nn), torch.nn.BatchNorm2d(6, eps=0.1, affine=affine)
    model = torch.nn.Sequential(layer, norm).double().eval()
    for x in (norm.weight, norm.running_var) if affine else (norm.running_var,):
        x.data.uniform_(0.5, 2)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    expected = model(x) - norm.bias[:, None, None] if affine else model(x)
    layer.weight.data = next(specnorm_torch.SpectralPenalty(model)._kernels()).detach()
    torch.testing.assert_close(layer(x), expected)


def test_a_step_on_a_gpu_waits_for_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it runs there: in torch, and with the effort that every step makes where none can be told to need it."""
    monkeypatch.setattr(TorchArrays, "numpy_view", lambda *_: False)
    monkeypatch.setattr(TorchArrays, "asynchronous", lambda *_: True)
    model = network()
    penalty = specnorm_torch.SpectralPenalty(model)
    read: list[str] = []
    for name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: read.append(name))
    penalty().backward()
    monkeypatch.undo()
    assert not read
    assert penalty.norms().keys() == set(penalty.names)


def test_second_derivatives_raise() -> None:
    penalty = specnorm_torch.SpectralPenalty(network())
    weight: Any = penalty._layers[0].weight
    (gradient,) = torch.autograd.grad(penalty() ** 2, weight, create_graph=True)
    with pytest.raises(SecondDerivativeError):
        torch.autograd.grad(gradient.square().sum() + weight.pow(3).sum(), weight)


def projectors(vectors: Any) -> Any:
    """Projectors v v* onto each vector of a state (..., p, r, f, 2): its phase is free, and libraries choose it."""
    # Those of matrices are real.
    v = torch.view_as_complex(vectors) if vectors.shape[-1] > 1 else vectors[..., 0]
    return v[..., :, None, :, :] * v[..., None, :, :, :].conj()


REFUSED = {
    "ours.spectral_norm(nn.Linear(2, 2), eps=-1e-12)": "eps=",
    "ours.spectral_norm(nn.Linear(2, 2), eps=float('nan'))": "eps=",
    "ours.spectral_norm(nn.Linear(2, 2), eps='1e-12')": "eps=",
    "ours.spectral_norm(nn.Linear(2, 2), eps=True)": "eps=",
    "ours.spectral_norm(nn.Linear(2, 2), only_shrink=[])": "is not True or False",
    "ours.rescale_(nn.Linear(2, 2), 1.0, bake='no')": "bake='no' is not True or False",
    "ours.gram_rescaling(nn.Linear(2, 2), name=3)": "name=3 is a number",
    "ours.gram_rescaling(nn.Conv2d(3, 4, 3), 'wieght')":
        r"^Conv2d has no tensor 'wieght' to rescale; its tensors are weight, bias\.$",
    "ours.spectral_norm([nn.Linear(2, 2)])": "list is not a torch module",
    "ours.spectral_norm(nn.Sequential(nn.Linear(2, 2)), layers='tail.*')":
        r"bilinear layer named like 'tail\.\*'; its layers are 0",
    "ours.spectral_norm(nn.Linear(2, 2), layers=['0'])": r"layers=\['0'\] is no shell pattern on names",
    "ours.geometry_of(nn.Conv2d(2, 2, 3), (8,))": r"input_shape=\(8,\) has 1 entry; the kernel has 2 spatial axes",
    "ours.spectral_norm(nn.Linear(2, 2), 0.9)": r"name=0\.9 is a number: give bound=0\.9",
    # Neither a pattern nor a bound is asked for that was given, or that would not help.
    "ours.spectral_norm(nn.ReLU())": r"ReLU has no .*, and no convolution, .* or bilinear layer\. Give the",
    "ours.rescale_(nn.ReLU(), 1.0)": r"ReLU has no convolution, .*bilinear layer, and no tensor",
    "ours.rescale_(nn.ReLU())": "or give a bound",
    "ours.NormMonitor(nn.ReLU())": "no convolution or linear layer",
    "ours.NormMonitor(nn.Linear(2, 2), 0)": "positive number of steps",
    "ours.NormMonitor([nn.Linear(2, 2)])": r"list is not a torch\.nn\.Module: give the model itself",
    "ours.SpectralPenalty([nn.Linear(2, 2)])": r"list is not a torch\.nn\.Module: give the model itself",
    "ours.baked([nn.Linear(2, 2)])": r"list is not a torch\.nn\.Module: give the model itself",
    "ours.bake_(nn.Linear)": r"type is not a torch\.nn\.Module: give the model itself",
    "ours.OrthogonalityPenalty([nn.Linear(2, 2)])": r"list is not a torch\.nn\.Module: give the model itself",
    "ours.OrthogonalityPenalty(nn.ReLU())": "no convolution",
    "ours.OrthogonalityPenalty(nn.Linear(2, 2), form='squares')": "form=",
    # They were torch's own IndexError and ValueError, or an axis that is none was ignored.
    "ours.spectral_norm(nn.Embedding(5, 4), dim=7)": "is not an axis of",
    "ours.spectral_norm(nn.Linear(5, 4), dim=-9)": "is not an axis of",
    "ours.spectral_norm(nn.Conv1d(2, 3, 3), dim='rows')": "is not an axis of",
    "ours.spectral_norm(nn.utils.weight_norm(nn.Linear(3, 2)))": "is computed by .* hook before each call",
    "ours.spectral_norm(nn.utils.prune.random_unstructured(nn.Linear(3, 2), 'weight', 0.5))":
        "is computed by .* hook before each call",
    "ours.SpectralBall(ours.spectral_norm(nn.Sequential(nn.Linear(2, 2))), 0.1)":
        r"0\.weight is computed by a parametrization: SpectralBall moves weights",
    "ours.SpectralBall(nn.Linear(2, 2).bfloat16(), 0.1)": r"weight is torch.bfloat16, whose rounding",
    "ours.SpectralBall(nn.Linear(2, 2), 'x')": "lr must be a number, got str 'x'",
    "ours.SpectralBall(nn.Linear(2, 2), 0.1, momentum=None)": "momentum must be a number, got NoneType",
    "ours.SpectralBall(nn.Linear(2, 2), 0.1, layers='*')": r"layers='\*' is no function: give a function of a layer's",
    "ours.SpectralBall(nn.Linear(2, 2), 0.1, layers=nn.Linear)": "is no function",
    "ours.SpectralBall(nn.Linear(2, 2), 0.1, rest='sgd')": "rest='sgd' makes no optimizer: give a function of a list",
    "ours.SpectralBall(nn.Linear(2, 2), 0.1, rest=len)": "makes no optimizer",
    "ours.SpectralBall(None, 0.1)": "a NoneType is no model: give the model, or a list of its parameters",
    "ours.SpectralBall(nn.Linear(2, 2).weight, 0.1)": "a Parameter is no model",
    "ours.SpectralBall([2.0], 0.1)": "a float is no parameter: give the model",
    "ours.MuonConv(nn.Linear(2, 2), 'x')": "lr must be a number, got str 'x'",
    "ours.MuonConv(nn.Linear(2, 2), 0.1, weight_decay='x')": "weight_decay must be a number",
    "ours.MuonConv(nn.Linear(2, 2), 0.1, weight_decay=-1)": r"weight_decay=-1\.0 is not a finite number of at least 0",
    "ours.NormMonitor(nn.Linear(2, 2))('a')": "step must be a number, got str 'a'",
    "ours.NormMonitor(nn.Linear(2, 2), 'a')": "every must be a number",
    "ours.NormMonitor(nn.Linear(2, 2), float('nan'))": "every=nan must be a positive number of steps",
    "ours.NormMonitor(nn.Linear(2, 2), upper='a')": "upper must be a number",
    "ours.NormMonitor(nn.Linear(2, 2), select='*')": r"select='\*' is no function: give select\(name, layer\)",
    "ours.SpectralPenalty(nn.Linear(2, 2), batch_norms=3)": "batch_norms=3 is not 'sequential', None, or a dict",
    "ours.SpectralBall(nn.Linear(2, 2), 0.1, nesterov='no')": "nesterov='no' is not True or False",
    "ours.SpectralPenalty(nn.Linear(2, 2), target='x')": "target must be a number",
    "ours.linear_operator(3, nn.Linear(2, 2).weight)": "function=3 is no function",
    "ours.SpectralBall(nn.BatchNorm2d(3), 0.1)": "has no convolution or linear layer",
    "ours.SpectralBall(nn.Linear(2, 2), -0.1)": "is not from 0 to 1",
    "ours.SpectralBall(nn.Linear(2, 2), 1.5)": "is not from 0 to 1",
    "ours.SpectralBall(nn.Linear(2, 2), float('nan'))": "is not from 0 to 1",
    "ours.SpectralBall(nn.Sequential(nn.Linear(2, 2)), 0.1, bound={'1*': 1.0})": r'matches the layer 0: add "\*"',
    "ours.MuonConv(nn.Linear(2, 2), -1.0)": "is not a finite number of at least 0",
    "ours.MuonConv(nn.Linear(2, 2), float('nan'))": "is not a finite number of at least 0",
}  # fmt: skip
"""A call, and what it is refused with."""


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_told_in_the_users_words(case: str) -> None:
    with pytest.raises(SpecnormError, match=REFUSED[case]):
        eval(case, {"ours": specnorm_torch, "nn": torch.nn})


def test_a_weight_that_grew_is_refused() -> None:
    """It was cut off to the shape that it had: the penalty left out the new taps."""
    layer = torch.nn.Conv2d(3, 4, 3)
    penalty = specnorm_torch.SpectralPenalty(torch.nn.Sequential(layer))
    layer.weight = torch.nn.Parameter(torch.randn(4, 3, 5, 5))
    with pytest.raises(MethodError, match=r"\(4, 3, 5, 5\) now, and had"):
        penalty()


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.nightly
def test_compiled_training_step(compiler: str) -> None:
    """Without a graph break, the same gradients and the same state as without compilation.

    Every kind of layer where the graph is traced; two where code is generated, which takes most of the time.
    """

    nn = torch.nn

    def run(compile_it: bool) -> Any:
        torch.manual_seed(0)
        two_layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
        model = specnorm_torch.spectral_norm(network() if compiler == "aot_eager" else two_layers).double()
        # Of plain weights: the norm of a constrained weight has no derivative but rounding.
        penalised = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).double()
        penalty = specnorm_torch.SpectralPenalty(penalised)
        parameters = [*model.parameters(), *penalised.parameters()]

        def loss(x: Any) -> Any:
            return model(x).square().mean() + 0.1 * penalty()

        step = torch.compile(loss, fullgraph=True, backend=compiler) if compile_it else loss
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            step(torch.ones(2, 3, 8, 8, dtype=torch.float64)).backward()
            optimizer.step()
        assert penalised[0].weight.grad is not None
        modules = torch.nn.ModuleDict({"model": model, "penalised": penalised, "penalty": penalty})
        return modules.state_dict()

    eager, compiled = run(False), run(True)
    assert eager.keys() == compiled.keys()
    for k in eager:
        if k.endswith("_extra_state"):
            continue
        one, other = (projectors(x[k]) if "vectors" in k else x[k] for x in (compiled, eager))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


# -- norms in a training log -----------------------------------------------------------------------------------------
def small() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(27, 4)
    )


def enclosed(layer: Any) -> Any:
    geometry = specnorm_torch.geometry_of(layer)
    return specnorm.enclose(layer.weight.detach(), **geometry)


def right(found: dict[str, float], model: Any) -> None:
    for name in ("0", "3"):
        truth = enclosed(model.get_submodule(name))
        assert 0.98 * truth.lower <= found[f"norm/{name}"] <= truth.upper * (1 + 1e-6)
        if f"upper/{name}" in found:
            assert truth.lower <= found[f"upper/{name}"] <= 1.06 * truth.upper
            assert found[f"norm/{name}"] <= found[f"upper/{name}"]
    for kind in {key.partition("/")[0] for key in found}:
        assert found[f"{kind}/product"] == pytest.approx(found[f"{kind}/0"] * found[f"{kind}/3"])


def test_norms_bounds_and_product_follow_the_model() -> None:
    """A proof is of the weights of its report: with weights that moved since, no report has an upper bound."""
    model = small()
    monitor = specnorm_torch.NormMonitor(model, every=5, upper=2)
    assert monitor(3) == {}
    norms = {"norm/0", "norm/3", "norm/product"}
    uppers = {"upper/0", "upper/3", "upper/product"}
    for step in (0, 5, 10, 15):
        found = monitor(step)
        assert set(found) == (norms if step % 10 else norms | uppers)
        right(found, model)
        with torch.no_grad():
            for x in model.parameters():
                x.mul_(1.3).add_(0.1 * torch.randn_like(x))
    assert set(specnorm_torch.NormMonitor(model, select=lambda name, _: name == "0", upper=False)(0)) == {
        "norm/0", "norm/product"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("steps_of_batches", "reported"),
    [
        ([1, 2, 3, 4, 5, 6], [3, 6]),
        ([0, 0, 1, 1, 2, 2, 3, 3, 3, 4], [3]),  # gradients of several batches are accumulated
        ([2, 4, 6, 8, 10, 12], [4, 6, 10, 12]),  # two optimisers: every third step is in these batches
        ([601, 602, 603, 604], [603]),  # a run that is resumed
        ([600, 601], [600]),
    ],
)
def test_lightning_counts_steps_of_optimisers(
    steps_of_batches: list[int], reported: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("pytorch_lightning")
    package.Callback = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", package)
    callback = specnorm_torch.NormMonitor(small(), every=3, upper=False).lightning()
    logged: list[int] = []
    for batch, step in enumerate(steps_of_batches):
        module = SimpleNamespace(log_dict=lambda values, step=step: logged.append(step) if "norm/0" in values else None)
        callback.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, batch)
    assert logged == reported


def test_layers_left_out_are_named_and_there_is_no_product() -> None:
    class Lora(torch.nn.Linear):  # type: ignore[misc] # torch is Any here
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Lora(4, 4), torch.nn.LSTM(4, 4), torch.nn.LayerNorm((3, 4)))
    with pytest.warns(UserWarning, match="no product. 1: Lora has a forward of its own.*2: a LSTM is not measured"):
        monitor = specnorm_torch.NormMonitor(model, upper=True)
    assert set(monitor(0)) == {"norm/0", "upper/0"}
    assert list(monitor.left_out) == ["1", "2"]


def test_weights_that_diverged_are_named_or_logged_and_not_proven() -> None:
    """Before the first report they are named; after it their norm is NaN."""
    model = small()
    monitor = specnorm_torch.NormMonitor(model, upper=True)
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.warns(UserWarning, match=r"0: .* holds 1 non-finite value"):
        assert set(monitor(0)) == {"norm/3", "upper/3"}
    with torch.no_grad():
        model[0].weight.nan_to_num_()
    assert "norm/product" in monitor(100)
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    found = monitor(200)
    assert math.isnan(found["norm/0"])
    assert "upper/3" in found
    assert not {"upper/0", "upper/product"} & found.keys()


def test_the_model_is_as_before() -> None:
    model = small().train()
    specnorm_torch.spectral_norm(model[0])
    torch.nn.utils.parametrizations.spectral_norm(model[3])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = specnorm_torch.NormMonitor(model)(0)
    assert found["norm/0"] == pytest.approx(1, rel=1e-3)
    assert [(name, x) for name, x in model.state_dict().items() if not torch.equal(x, before[name])] == []
    assert [module for module in model.modules() if not module.training] == []


def test_shards_of_fsdp2_are_refused_by_name() -> None:
    """In one process: they ended with `Trying to resize storage that is not resizable`, or an error of aten."""
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch has no distributed package here")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def model() -> Any:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2))

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        constrained = fully_shard(specnorm_torch.spectral_norm(model()), mesh=mesh)
        with pytest.raises(MethodError, match="sharded by FSDP2"):
            constrained(torch.randn(1, 3, 4, 4))
        before = model()
        ball = specnorm_torch.SpectralBall(before, 0.1)
        fully_shard(before, mesh=mesh)(torch.randn(1, 3, 4, 4)).sum().backward()
        with pytest.raises(MethodError, match=r"0.weight was replaced .* DTensor, as .* FSDP2"):
            ball.step()
        sharded = fully_shard(model(), mesh=mesh)
        for call in (
            specnorm_torch.spectral_norm,
            lambda x: specnorm_torch.SpectralBall(x, 0.1),
            lambda x: specnorm_torch.MuonConv(x, 0.1),
            lambda x: specnorm_torch.NormMonitor(x, 1)(0),
            lambda x: specnorm_torch.rescale_(x, 1.0),
            lambda x: specnorm.enclose(x[0]),
        ):
            with pytest.raises(SpecnormError, match=r"DTensor, as .* FSDP2"):
                call(sharded)
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("constrain", [specnorm_torch.spectral_norm, specnorm_torch.gram_rescaling])
def test_forward_mode_and_scripts_are_refused_in_the_users_words(constrain: Any) -> None:
    layer = constrain(torch.nn.Linear(3, 2))
    x = torch.ones(1, 3)
    for mode in (layer.train(), layer.eval()):
        with pytest.raises(MethodError, match=r"forward mode .* use torch\.func\.jacrev"):
            torch.func.jacfwd(lambda weights: torch.func.functional_call(layer, weights, (x,)))(
                dict(mode.named_parameters())
            )
    # By the inputs, the weight is a constant.
    assert torch.func.jacfwd(layer)(x).shape == (1, 2, 1, 3)
    with pytest.raises(MethodError, match=r"torch\.jit\.script\(specnorm_torch\.baked\(model\)\)"):
        torch.jit.script(layer)
    torch.jit.script(specnorm_torch.baked(layer))


def test_forms_of_a_penalty() -> None:
    """A norm below the target adds nothing to a hinge."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for layer, norm in zip(model, (3.0, 5.0), strict=True):
            layer.weight.copy_(torch.diag(torch.tensor([norm, 1.0])))
    forms: Any = {"sum": 8.0, "log": math.log(15.0), "hinge": 1.0}
    for form, expected in forms.items():
        penalty: Any = specnorm_torch.SpectralPenalty(model, form=form, target=4.0)
        assert float(penalty()) == pytest.approx(expected, rel=1e-5), form
