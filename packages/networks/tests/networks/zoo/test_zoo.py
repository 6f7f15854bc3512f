"""Every layer of the zoo is proven, and then its dense matrix agrees, or refused by name. Nothing is silent.

Layers of published packages are in `test_packages`, which the session ``zoo`` runs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.torch_layers import module_matrix

from specnorm.errors import GeometryError, MethodError

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from networks.zoo import layers as z  # noqa: E402

nn = torch.nn
parametrizations = torch.nn.utils.parametrizations

PROVEN = "proven"
CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...], str]] = {
    # name: the layer, its input, what the audit says of it
    "plain": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 6, 5), PROVEN),
    "reflect": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 4), PROVEN),
    "circular, same": (lambda: nn.Conv1d(2, 2, 4, padding="same", padding_mode="circular"), (2, 5), PROVEN),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 3, 3), PROVEN),
    "symmetric padding": (lambda: z.SymmetricConv(1, 2, 5), (1, 5, 5), "Slice"),
    "LoRA": (lambda: z.LoraLinear(6, 4), (6,), "Add"),
    "quantisation-aware, folded": (lambda: z.QatConvBn(2, 3, 3, padding=1), (2, 4, 4), "Div"),
    "Bjorck": (lambda: z.BjorckLinear(5), (5,), PROVEN),
    "weight by property": (lambda: z.by_property(5), (5,), PROVEN),
    "addmm": (lambda: z.AddmmLinear(5, 3), (2, 5), PROVEN),
    "over channels": (lambda: z.ChannelsFirst(3, 4), (3, 4, 2), PROVEN),
    "forward hook": (z.scaled_by_hook, (5,), "Mul"),
    "pre-hook": (z.scaled_before, (2, 4, 4), "Mul"),
    "hook that keeps": (z.watched, (2, 4, 4), PROVEN),
    "forward on the instance": (z.overridden, (5,), "Mul"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(5, 5)), (5,), PROVEN),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), (2, 5, 5), PROVEN),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), (2, 5, 5), PROVEN),
    "ours": (lambda: specnorm_torch.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)), (2, 5, 5), PROVEN),
    "pruned": (lambda: torch.nn.utils.prune.l1_unstructured(nn.Linear(5, 4), "weight", 0.5), (5,), PROVEN),
    "old weight_norm": (lambda: torch.nn.utils.weight_norm(nn.Linear(5, 4)), (5,), PROVEN),
    "old spectral_norm": (lambda: torch.nn.utils.spectral_norm(nn.Conv2d(2, 3, 3, padding=1)), (2, 4, 4), PROVEN),
    "moving": (lambda: _parametrised(nn.Linear(5, 4), z.Moving()), (5,), PROVEN),
}  # fmt: skip
OF_FORWARDS = {
    "circular by hand": PROVEN, "drop connect": "draws random numbers", "dynamic": "ReduceMean",
    "branching": "cannot export", "through NumPy": "cannot export", "unseen": "Mul",
    "remembers": "exported otherwise than it computes", "in place": "cannot export", "changes its input": "Mul",
    "a little, unseen": "Mul", "a little, in a list": "_foreach_mul", "scaled by alpha": "Mul",
    "bits after the product": "view", "steep beyond what is drawn": "Where",
}  # fmt: skip
for _name, (_kind, _forward) in z.FORWARDS.items():
    _sizes, _shape = ((2, 2, 3), (2, 5, 5)) if _kind is nn.Conv2d else ((5, 4), (5,))
    _more = {"padding": 1} if _name == "dynamic" else {}
    CASES[_name] = (partial(z.own(_kind, _forward), *_sizes, **_more), _shape, OF_FORWARDS[_name])
SKIPPED: dict[str, tuple[Callable[[], Any], tuple[int, ...], list[str]]] = {
    "SLL": (lambda: z.Sll(5), (5,), ["0.kernel"])
}
NOT_TORCHS = ("Bjorck", "addmm")
"""Modules that are no layers of torch's, which `rescale_` is not about."""
WRITABLE = {"plain", "reflect", "circular, same", "transposed", "hook that keeps", "ours"}
"""What `rescale_` takes as it is; and what it takes with ``bake=True``:"""
BAKED = {
    "orthogonal", "weight_norm", "spectral_norm", "pruned", "old weight_norm", "old spectral_norm", "moving",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def _parametrised(layer: Any, by: Any) -> Any:
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", by)
    return layer


def class_of(layer: Any) -> str:
    return str(torch.nn.utils.parametrize.type_before_parametrizations(layer).__name__)


def build(case: str) -> tuple[Any, tuple[int, ...]]:
    torch.manual_seed(3)
    make, shape, _ = CASES[case]
    return nn.Sequential(make()).double().eval(), shape


def norm_of(model: Any, shape: tuple[int, ...], dtype: Any = torch.float64) -> float:
    return float(np.linalg.norm(module_matrix(model, shape, dtype), 2))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES)
def test_every_layer_is_proven_or_refused_by_name(case: str) -> None:
    model, shape = build(case)
    wanted = CASES[case][2]
    report = specnorm_torch.audit_module(model, shape, methods=("tn", "f4"))
    row: Any = report.layers[0]
    assert len(report.layers) == 1
    if wanted != PROVEN:
        assert row.status == "error"
        assert row.lower is None
        assert row.upper is None
        assert not any(row.values.values()), "nothing is said of what is not known"
        assert class_of(model[0]) in str(row.reason)
        assert re.search(wanted, str(row.reason))
        return
    assert row.reason is None
    assert (case == "moving") == ("changes its kernel at every call" in str(row.note))
    norm = norm_of(specnorm_torch.baked(model), shape)
    assert row.lower * (1 - 1e-12) <= norm <= row.upper * (1 + 1e-12)
    for name, value in row.values.items():
        assert norm <= value * (1 + 1e-12), name
    assert row.lower >= 0.9 * norm


@pytest.mark.parametrize("case", SKIPPED)
def test_other_matrices_are_named(case: str) -> None:
    make, shape, names = SKIPPED[case]
    model = nn.Sequential(make(), nn.Linear(5, 2))
    report = specnorm_torch.audit_module(model, shape)
    assert [row.name for row in report.layers] == ["1.weight"]
    assert [row.name for row in report.unmeasured] == names
    assert len(report.skipped) == len(list(model.parameters())) - 1
    assert names[0] in str(report)


@pytest.mark.parametrize("bake", [False, True], ids=["as it is", "baked"])
@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_TORCHS])
def test_a_rescaled_model_stays_within_the_bound_or_is_unchanged(case: str, bake: bool) -> None:
    """Either the very operator is within the bound after it, or nothing was changed."""
    model, shape = build(case)
    bound = 0.25
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(1, *shape, dtype=torch.float64)
    before = None if case in ("drop connect", "moving", "remembers") else model(x.clone())
    kind = class_of(model[0])
    if case in WRITABLE or (bake and case in BAKED):
        assert specnorm_torch.rescale_(model, bound, bake=bake) == ["0"]
        for mode in (True, False):
            assert norm_of(model.train(mode), shape) <= bound * (1 + 1e-12)
        # At every size a reflecting layer may have a larger norm than at this one.
        assert norm_of(model, shape) >= (0.3 if case == "reflect" else 0.5) * bound
        return
    with pytest.raises((MethodError, GeometryError), match=r"0\.weight") as raised:
        specnorm_torch.rescale_(model, bound, bake=bake)
    assert kind in str(raised.value) or "bake_" in str(raised.value)
    after = model.state_dict()
    assert state.keys() == after.keys()
    assert [name for name in state if not torch.equal(state[name], after[name])] == []
    assert before is None or torch.equal(before, model(x.clone()))
