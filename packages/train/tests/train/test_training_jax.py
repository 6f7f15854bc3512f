"""Penalties and projections on trees of parameters: through JAX's transformations, and for Optax, Flax and Equinox."""

from __future__ import annotations

import os
import re
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import DOCS
from helpers.processes import python

import specnorm
from specnorm.errors import GeometryError, KernelError, MethodError, SpecnormError
from specnorm.methods import Gram, SymbolNorm, TensorNorm

jax: Any = pytest.importorskip("jax")
jnp = jax.numpy
training: Any = pytest.importorskip("specnorm_jax.training")

pytestmark = pytest.mark.usefixtures("jax32")

METHODS = [TensorNorm(), SymbolNorm(), Gram()]

methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def optional(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")


def normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape).astype("float32"))


def parameters(seed: int = 0) -> dict[str, Any]:
    """As Flax has them: two convolutions of one shape, a dense layer, biases. One axis, which compiles fast."""
    conv = [{"kernel": normal(3, 4, 4, seed=seed + j), "bias": jnp.zeros(4)} for j in range(2)]
    return {"Conv_0": conv[0], "Conv_1": conv[1], "Dense_0": {"kernel": normal(5, 3, seed=seed + 3)}}


NAMES = ["Conv_0/kernel", "Conv_1/kernel", "Dense_0/kernel"]


def uppers(tree: Any, rule: Any = training.flax_layout) -> dict[str, float]:
    found = training.kernels(tree, rule).items()
    return {name: float(specnorm.enclose(kernel, **geometry).upper) for name, (kernel, geometry) in found}


def certified(tree: Any, bound: float, rule: Any = training.flax_layout) -> bool:
    found = training.kernels(tree, rule).values()
    return all(specnorm.certify(kernel, bound, **geometry) for kernel, geometry in found)


def close(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


# -- which leaves are kernels ------------------------------------------------------------------------------------
def near_rank_one(*shape: int, inputs: int, seed: int = 0) -> Any:
    """A dense kernel whose matrix, of so many input axes, has norm 1.5 and a second singular value far below."""
    rng = np.random.RandomState(seed)
    rows, columns = int(np.prod(shape[:inputs])), int(np.prod(shape[inputs:]))
    matrix = np.outer(rng.standard_normal(rows), rng.standard_normal(columns))
    matrix = matrix / np.linalg.norm(matrix) + 1e-3 * rng.standard_normal((rows, columns))
    return jnp.asarray((1.5 * matrix / np.linalg.norm(matrix, 2)).reshape(shape).astype("float32"))


def matrix_norm(kernel: Any, inputs: int) -> float:
    matrix = np.asarray(kernel, dtype=np.float64)
    return float(np.linalg.norm(matrix.reshape(int(np.prod(matrix.shape[:inputs])), -1), 2))


DENSE = [((16, 8, 64), 1), ((8, 4, 16), 1), ((4, 16, 24), 2), ((6, 2, 3, 8), 1), ((3, 4, 2, 8), 2)]
"""Shapes of kernels of LinearGeneral and DenseGeneral, and their input axes."""


@pytest.mark.parametrize(("shape", "inputs"), DENSE, ids=str)
def test_rescaled_dense_kernels_with_several_axes_have_the_norm_that_is_promised(
    shape: tuple[int, ...], inputs: int
) -> None:
    """The norm of a dense layer is that of its matrix: as a convolution it would be left at up to 1.475."""
    kernel = near_rank_one(*shape, inputs=inputs)
    bias = jnp.zeros(shape[inputs:])
    beside_a_bias = training.rescale({"to_qkv": {"kernel": kernel, "bias": bias}}, 1.0)
    assert matrix_norm(beside_a_bias["to_qkv"]["kernel"], inputs) <= 1 + 1e-6
    told = training.with_geometry({"proj_in/kernel": {"input_axes": inputs}})
    by_rule = training.rescale({"proj_in": {"kernel": kernel}}, 1.0, told)
    assert by_rule["proj_in"]["kernel"].shape == shape
    assert 0.99 <= matrix_norm(by_rule["proj_in"]["kernel"], inputs) <= 1 + 1e-6


def test_what_the_tree_does_not_say_is_refused_by_path() -> None:
    tree = {"qkv": {"kernel": near_rank_one(16, 8, 64, inputs=1)}, "proj_in": {"kernel": normal(4, 2, 3)}}
    told = "'proj_in/kernel'.*'qkv/kernel'.*input_axes.*'layout': 'WIO'"
    for use in (training.kernels, lambda x: training.rescale(x, 1.0), training.SpectralPenalty().init):
        with pytest.raises(GeometryError, match=told):
            use(tree)
    rule = training.with_geometry({"qkv/kernel": {"input_axes": 1}, "proj_in/kernel": {"layout": "WIO"}})
    assert [k.array.shape for k in training.kernels(tree, rule).values()] == [(4, 2, 3), (16, 512)]
    both = training.with_geometry({"*": {"input_axes": 1}, "qkv/*": {"input_axes": 2}})
    assert [k.array.shape for k in training.kernels(tree, both).values()] == [(4, 6), (128, 64)]
    with pytest.raises(GeometryError, match="'qvk/kernel' matches no layer"):
        training.kernels(tree, training.with_geometry({"qvk/kernel": {"stride": 2}, "*": {"input_axes": 1}}))
    assert list(training.kernels({**tree, "Conv_0": {"kernel": normal(3, 2, 2)}}, layers="Conv*")) == ["Conv_0/kernel"]
    with pytest.raises(GeometryError, match="input_axes=3 of a kernel of shape"):
        training.kernels(tree, training.with_geometry({"*/kernel": {"input_axes": 3}}))


REFUSED = {
    "rescale(tree, rule='flax')": "rule='flax' is no function: give flax_layout, equinox_layout, or a function of",
    "kernels(tree, layers=['dense'])": r"layers=\['dense'\] is no shell pattern on names",
    "spectral_norm(tree, {}, only_shrink='no')": "only_shrink='no' is not True or False",
    "spectral_norm(tree, {'dense': 3})": "the state is of type int. Give the dict of dicts",
    "with_geometry('dense')": "geometry='dense' is not a mapping from paths to mappings",
    "with_geometry({'dense': 2})": "is not a mapping from paths to mappings of keywords",
    "muon_conv('x')": "learning_rate must be a number, got str 'x'",
    "spectral_ball('x')": "learning_rate must be a number, got str 'x'",
    "spectral_ball(0.1, momentum='x')": "momentum must be a number, got str 'x'",
    "spectral_ball(0.1, momentum=1)": "momentum=1 is not from 0 to below 1",
    "spectral_ball(0.1, rest='adam')": "rest='adam' is no optax.GradientTransformation",
    "SpectralPenalty(form='squares')": "form='squares' is none of 'sum', 'log', 'hinge'",
    "NormMonitor()('a', tree)": "step must be a number, got str 'a'",
}
"""A call, and what it is refused with."""


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_told_in_the_users_words(case: str) -> None:
    tree = {"dense": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(SpecnormError, match=REFUSED[case]):
        eval(case, {"tree": tree, **{name: getattr(training, name) for name in dir(training)}})


def test_biases_of_stacked_and_local_layers_do_not_tell() -> None:
    """Three dense layers in one, (layers, in, out), and a bias (layers, out), of sizes that fit another reading; nor a
    bias of other sizes, nor projections of attention whose heads differ."""
    for shape, bias in (((3, 4, 5), (3, 5)), ((4, 4, 5), (4, 5)), ((3, 4, 5), (4, 6))):
        with pytest.raises(GeometryError, match="stack/kernel"):
            training.kernels({"stack": {"kernel": jnp.ones(shape), "bias": jnp.ones(bias)}})
    for name in ("ConvLocal_0", "Einsum_0"):
        with pytest.raises(GeometryError, match=name):
            training.kernels({name: {"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones(5)}})
    shapes = {"query": (8, 2, 3), "key": (8, 2, 3), "value": (8, 2, 3), "out": (2, 3, 8)}
    attention = {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}
    found = training.kernels(attention)
    assert {name: found[f"{name}/kernel"].array.shape for name in shapes} == {
        **dict.fromkeys(shapes, (8, 6)),
        "out": (6, 8),
    }
    with pytest.raises(GeometryError, match="query/kernel"):
        training.kernels(attention | {"out": {"kernel": jnp.ones((3, 2, 8))}})


STACKED = training.with_geometry({"*/kernel": {"stack_axes": 1}})
"""As of trees that `nn.scan` and `nn.vmap` of Flax make."""


def test_a_stack_of_parameters_is_its_kernels() -> None:
    """Two dense layers, and three convolutions of one axis: norms and proofs are those of the kernels apart."""
    pair = {"kernel": normal(2, 5, 3), "bias": jnp.zeros((2, 3))}
    tree = {"Critic": pair, "blocks": {"Conv_0": {"kernel": normal(3, 3, 4, 4), "bias": jnp.zeros((3, 4))}}}
    with pytest.raises(GeometryError, match=r"'blocks/Conv_0/kernel'.*stack_axes"):
        training.kernels(tree, layers="blocks/*")
    with pytest.raises(GeometryError, match="stack_axes=3 of 'blocks/Conv_0/kernel'"):
        training.kernels(tree, training.with_geometry({"blocks/*": {"stack_axes": 3}}), layers="blocks/*")
    found = training.kernels(tree, STACKED)
    truth = {f"Critic/kernel/{j}": matrix_norm(pair["kernel"][j], 1) for j in range(2)}
    for j, kernel in enumerate(tree["blocks"]["Conv_0"]["kernel"]):
        truth[f"blocks/Conv_0/kernel/{j}"] = np.linalg.norm(np.fft.fft(kernel, 256, axis=0), 2, axis=(1, 2)).max()
    assert list(found) == list(truth)
    assert uppers(tree, STACKED) == pytest.approx(truth, rel=2e-3)
    at_most = training.rescale(tree, 1.0, STACKED)
    assert certified(at_most, 1.0, STACKED)
    # Of matrices alone, which compile fast.
    optimizer = training.spectral_ball(0.5, rule=STACKED, layers="Critic/*")
    updates, _ = optimizer.update(tree, optimizer.init(at_most), at_most)
    for j in range(2):
        own, gradient = ({"kernel": x["Critic"]["kernel"][j]} for x in (at_most, tree))
        alone = training.spectral_ball(0.5)
        close(updates["Critic"]["kernel"][j], alone.update(gradient, alone.init(own), own)[0]["kernel"])
    monitor = training.NormMonitor(rule=STACKED, layers="Critic/*", upper=0)
    assert set(monitor(100, tree)) == {"norm/Critic/kernel/0", "norm/Critic/kernel/1", "norm/product"}
    assert monitor(101, tree) == {}


def test_a_bias_with_one_axis_leaves_a_reading_that_is_never_too_small() -> None:
    kernel = near_rank_one(4, 16, 24, inputs=2)
    small = training.rescale({"out_proj": {"kernel": kernel, "bias": jnp.zeros(24)}}, 1.0)["out_proj"]["kernel"]
    assert matrix_norm(small, 2) <= 1 + 1e-6
    assert certified({"Conv_0": {"kernel": small}}, 1.0)


def test_modules_of_flax_are_asked() -> None:
    nnx = optional("flax.nnx")

    class Net(nnx.Module):  # type: ignore[name-defined, misc]
        def __init__(self, rngs: Any) -> None:
            self.down = nnx.Conv(2, 4, (3, 3), strides=2, use_bias=False, rngs=rngs)
            self.qkv = nnx.LinearGeneral(16, (2, 4), use_bias=False, rngs=rngs)
            self.merge = nnx.LinearGeneral((2, 4), 5, axis=(-2, -1), use_bias=False, rngs=rngs)
            self.attend = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
            self.heads = nnx.LinearGeneral(4, 5, batch_axis={0: 3}, use_bias=False, rngs=rngs)

    net = Net(nnx.Rngs(0))
    found = training.kernels(net)
    assert found["down/kernel"].geometry["stride"] == (2, 2)
    assert found["qkv/kernel"].array.shape == (16, 8)
    assert found["merge/kernel"].array.shape == (8, 5)
    assert found["heads/kernel"].array.shape == (12, 5)
    assert found["attend/query/kernel"].array.shape == found["attend/out/kernel"].array.shape == (8, 8)
    params = nnx.state(net, nnx.Param)
    with pytest.raises(GeometryError, match="down/kernel"):
        training.kernels(params)
    by_model = training.kernels(params, training.layout_of(net))
    assert {name: (k.array.shape, k.geometry) for name, k in by_model.items()} == {
        name: (k.array.shape, k.geometry) for name, k in found.items()
    }

    class Twice(nnx.Linear):  # type: ignore[name-defined, misc]
        def __call__(self, x: Any) -> Any:
            return 2 * super().__call__(x)

    rngs = nnx.Rngs(0)
    for layer, reason in (
        (nnx.Einsum("ab,bcd->acd", (4, 2, 3), rngs=rngs), "Einsum computes by a rule of its own"),
        (Twice(3, 3, rngs=rngs), "Twice computes by a rule of its own"),
        (nnx.Conv(2, 3, (3,), mask=jnp.zeros((3, 2, 3)), rngs=rngs), "Conv has a mask"),
    ):
        net.last = layer
        with pytest.raises(GeometryError, match=f"last/kernel: {reason}"):
            training.kernels(net)


# -- a log of norms ----------------------------------------------------------------------------------------------
def test_the_monitor_names_what_is_no_kernel() -> None:
    tree = {
        "Dense_0": {"kernel": normal(3, 4)}, "lstm": {"hidden": normal(4, 4)}, "Embed_0": {"embedding": normal(9, 4)},
    }  # fmt: skip
    monitor = training.NormMonitor()
    with pytest.warns(UserWarning, match="no product. lstm/hidden: it is not a kernel by the rule"):
        assert set(monitor(0, tree)) == {"norm/Dense_0/kernel", "upper/Dense_0/kernel"}
    assert list(monitor.left_out) == ["lstm/hidden"]
    assert "norm/product" in training.NormMonitor(layers="Dense*")(0, tree)


# -- constraint --------------------------------------------------------------------------------------------------
def classifier(seed: int = 1) -> Any:
    """Four kernels of one shape: each other shape is a program to compile."""
    scale = (2 / (3 * 16)) ** 0.5
    return {f"Conv_{j}": {"kernel": scale * normal(3, 16, 16, seed=seed + j)} for j in range(4)}


def train(method: Any, steps: int, **options: Any) -> tuple[list[Any], Any]:
    optax = optional("optax")
    rng = np.random.RandomState(0)
    inputs = jnp.asarray(rng.standard_normal((256, 12, 16)).astype("float32"))
    labels = jnp.asarray(rng.randint(0, 16, 256))
    optimiser = optax.adam(5e-3)

    def logits(weights: Any, x: Any) -> Any:
        for name in weights:
            x = jax.nn.relu(x)
            x = jax.lax.conv_general_dilated(
                x, weights[name]["kernel"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
            )
        return 30 * x.mean(1)

    def step(params: Any, state: Any, moments: Any, key: Any) -> Any:
        chosen = jax.random.randint(key, (64,), 0, 256)

        def loss(params: Any) -> Any:
            weights, after = training.spectral_norm(params, state, method=method, **options)
            found = optax.softmax_cross_entropy_with_integer_labels(logits(weights, inputs[chosen]), labels[chosen])
            return found.mean(), (weights, after)

        (_, (weights, after)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), after, moments, weights

    params = classifier()
    state = training.init_spectral_norm(params, method=method)
    moments, compiled, used = optimiser.init(params), jax.jit(step), []
    for j in range(steps):
        params, state, moments, weights = compiled(params, state, moments, jax.random.key(j))
        used.append(weights)
    return used, state


def lowers(tree: Any) -> list[float]:
    return [float(specnorm.enclose(k.array, rtol=5e-3, **k.geometry).lower) for k in training.kernels(tree).values()]


def test_the_constraint_holds_in_a_jitted_loop() -> None:
    used, state = train(SymbolNorm(), 100)
    norms = np.array([lowers(weights) for weights in used[4::8]])
    assert norms.max() <= 1.02
    assert norms.min() >= 0.98
    assert list(state) == ["Conv_0/kernel"], "equal kernels are one stack"


def test_an_evaluation_finds_the_norm_and_keeps_the_state() -> None:
    """The vectors stay as they are while the kernel does; another kernel takes steps until its norm is found."""
    params = {"Conv_0": {"kernel": normal(3, 6, 6), "bias": jnp.ones(6)}}
    moved = {"Conv_0": {**params["Conv_0"], "kernel": normal(3, 6, 6, seed=9)}}
    constrain = jax.jit(training.spectral_norm)
    _, first = constrain(params, training.init_spectral_norm(params))
    _, again = constrain(params, first)
    evaluated, kept = jax.jit(partial(training.spectral_norm, sweeps=0))(moved, again)
    assert lowers(evaluated)[0] == pytest.approx(1, rel=5e-3)
    np.testing.assert_array_equal(kept["Conv_0/kernel"]["vectors"], again["Conv_0/kernel"]["vectors"])
    weights, after = constrain(moved, again)
    vectors = [state["Conv_0/kernel"]["vectors"] for state in (first, again, after)]
    np.testing.assert_array_equal(vectors[1], vectors[0])
    assert not np.array_equal(vectors[2], vectors[1])
    assert lowers(weights)[0] == pytest.approx(1, rel=5e-3)
    with pytest.raises(KernelError, match="and this tree needs"):
        constrain({"Conv_0": {"kernel": normal(3, 6, 7)}}, first)


def test_kinds_that_differ_in_channels_and_taps_are_one_stack() -> None:
    """Padded with zeros, they have the norms and gradients that they have alone."""
    tree = {
        f"Conv_{j}": {"kernel": normal(3, *channels, seed=j)}
        for j, channels in enumerate([(6, 6), (2, 6), (5, 3), (8, 5)])
    }
    rule = training.with_geometry({"Conv_3/kernel": {"stride": 2}})
    state = training.init_spectral_norm(tree, rule=rule)
    assert list(state) == ["Conv_0/kernel"]

    def total(tree: Any, state: Any) -> Any:
        norms, state = training.SpectralPenalty(rule=rule).norms(tree, state)
        return sum(norms.values()), (norms, state)

    for _ in range(3):
        gradient, (norms, state) = jax.grad(total, has_aux=True)(tree, state)
    for name, (kernel, geometry) in training.kernels(tree, rule).items():
        kernel, move = np.asarray(kernel, np.float64), np.asarray(normal(*kernel.shape, seed=7), np.float64)
        ends = [specnorm.enclose(kernel + h * move, rtol=1e-9, **geometry).lower for h in (0.0, 1e-4, -1e-4)]
        assert float(norms[name]) == pytest.approx(float(ends[0]), rel=1e-4)
        slope = (np.asarray(gradient[name.split("/")[0]]["kernel"]) * move).sum()
        assert slope == pytest.approx(float(ends[1] - ends[2]) / 2e-4, abs=0.02)


def test_a_run_is_traced_once_and_resumes_to_the_bit() -> None:
    """With donated buffers, and through a file of NumPy arrays; some passes move the state, others do not."""
    traces = []

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, along: Any) -> Any:
        traces.append(1)

        def loss(params: Any) -> Any:
            weights, after = training.spectral_norm(params, state)
            return jnp.sum(weights["Conv_0"]["kernel"] * along), (after, weights)

        gradient, (after, weights) = jax.grad(loss, has_aux=True)(params)
        return jax.tree_util.tree_map(lambda x, d: x - 2e-2 * d, params, gradient), after, weights

    def along_of(j: int) -> Any:
        return normal(3, 6, 6, seed=j // 6) * (1e-3 if j > 6 else 1.0)

    params = {"Conv_0": {"kernel": normal(3, 6, 6)}}
    state = training.init_spectral_norm(params)
    passes, saved = [], None
    for j in range(12):
        params, state, weights = step(params, state, along_of(j))
        passes.append((state["Conv_0/kernel"]["vectors"] + 0, weights))
        if j == 5:
            saved = jax.tree_util.tree_map(np.array, (params, state))
    are_equal = [bool((x[0] == y[0]).all()) for x, y in pairwise(passes)]
    assert {*are_equal} == {True, False}
    params, state = jax.tree_util.tree_map(jnp.asarray, saved)
    for j in range(6, 12):
        params, state, weights = step(params, state, along_of(j))
    np.testing.assert_array_equal(weights["Conv_0"]["kernel"], passes[-1][1]["Conv_0"]["kernel"])
    np.testing.assert_array_equal(state["Conv_0/kernel"]["vectors"], passes[-1][0])
    assert len(traces) == 1


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_state_is_committed_only_with_its_kernels(is_committed: bool) -> None:
    """With a committed state a jitted step returned committed weights, and was compiled again in the second call."""
    params = {"Conv_0": {"kernel": normal(3, 6, 6), "bias": jnp.ones(6)}}
    params = jax.device_put(params, jax.devices()[0] if is_committed else None)
    assert training.init_spectral_norm(params)["Conv_0/kernel"]["vectors"].committed == is_committed


def test_the_gradient_passes_through_the_division() -> None:
    """Against differences of the loss, with norms by another method."""
    params = {"Conv_0": {"kernel": normal(3, 4, 4), "bias": jnp.ones(4)}}
    state = training.init_spectral_norm(params)
    along = normal(3, 4, 4, seed=5)

    def loss(x: Any) -> Any:
        weights, _ = training.spectral_norm({"Conv_0": {**params["Conv_0"], "kernel": x}}, state, 2.0)
        return jnp.sum(weights["Conv_0"]["kernel"] * along)

    def truth(x: np.ndarray) -> float:
        return float(2 * (x * np.asarray(along)).sum() / specnorm.enclose(x, rtol=1e-9, layout="WIO").lower)

    kernel, move = np.asarray(params["Conv_0"]["kernel"], np.float64), np.asarray(normal(3, 4, 4, seed=6), np.float64)
    expected = (truth(kernel + 1e-4 * move) - truth(kernel - 1e-4 * move)) / 2e-4
    gradient = jax.grad(loss)(params["Conv_0"]["kernel"])
    close(float((np.asarray(gradient) * move).sum()), expected, rtol=5e-3)


def test_shrinking_dtypes_zeros_and_other_leaves() -> None:
    tree = {"small": {"kernel": 0.01 * normal(4, 4)}, "zero": {"kernel": jnp.zeros((4, 4))},
            "half": {"kernel": normal(4, 4).astype(jnp.bfloat16), "bias": jnp.ones(4)},
            "tiny": {"kernel": 1e-30 * normal(4, 4)}}  # fmt: skip
    state = training.init_spectral_norm(tree)
    weights, after = training.spectral_norm(tree, state, only_shrink=True, sweeps=0)
    close(weights["small"], tree["small"], rtol=0.0)
    close(after, state, rtol=0.0)
    assert weights["half"]["kernel"].dtype == jnp.bfloat16
    assert weights["half"]["bias"] is tree["half"]["bias"]
    assert matrix_norm(weights["half"]["kernel"].astype("float32"), 1) == pytest.approx(1, rel=0.02)
    weights, _ = training.spectral_norm(tree, state)
    assert matrix_norm(weights["small"]["kernel"], 1) == pytest.approx(1, rel=1e-5)

    def squares(params: Any) -> Any:
        leaves = jax.tree_util.tree_leaves(training.spectral_norm(params, state)[0])
        return sum(jnp.sum(leaf.astype("float32") ** 2) for leaf in leaves)

    slope = jax.grad(squares)(tree)
    assert [x for x in jax.tree_util.tree_leaves(slope) if not bool(jnp.isfinite(x).all())] == []
    assert not weights["zero"]["kernel"].any()
    close(weights["tiny"], tree["tiny"], rtol=0.0)
    diverged = {**tree, "small": {"kernel": tree["small"]["kernel"].at[0, 0].set(jnp.inf)}}
    assert jnp.isnan(training.spectral_norm(diverged, state)[0]["small"]["kernel"]).all(), "as in torch's plugin"
    with pytest.raises(KernelError, match="non-finite"):
        training.init_spectral_norm(diverged)
    with pytest.raises(KernelError, match="type NoneType"):
        training.spectral_norm(tree, None)
    with pytest.raises(KernelError, match="bound"):
        training.spectral_norm(tree, state, 0.0)
    with pytest.raises(KernelError, match="the tree is empty"):
        training.kernels({})


def test_the_constraint_on_trees_of_flax_and_equinox() -> None:
    nnx, eqx = optional("flax.nnx"), optional("equinox")
    conv = nnx.Conv(4, 4, (3,), rngs=nnx.Rngs(0))
    params = nnx.state(conv, nnx.Param)
    with pytest.raises(GeometryError, match="input_axes"):
        training.kernels({"kernel": params["kernel"][...]})
    weights, _ = jax.jit(training.spectral_norm)(params, training.init_spectral_norm(params))
    assert type(weights) is type(params)
    nnx.update(conv, weights)
    assert uppers(nnx.state(conv, nnx.Param))["kernel"] == pytest.approx(1, rel=2e-3)
    layer = eqx.nn.Conv1d(4, 4, 3, key=jax.random.key(0))
    state = training.init_spectral_norm(layer)
    constrained, _ = eqx.filter_jit(training.spectral_norm)(layer, state)
    assert constrained.padding_mode == layer.padding_mode
    assert uppers(constrained)["weight"] == pytest.approx(1, rel=2e-3)


def test_a_model_of_equinox_needs_no_rule() -> None:
    eqx = optional("equinox")

    class Model(eqx.Module):  # type: ignore[name-defined, misc]
        down: Any
        head: Any
        rest: Any

    down = eqx.nn.Conv1d(4, 6, 3, stride=2, key=jax.random.key(0))
    stacked = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 2, key=key))(jax.random.split(jax.random.key(2)))
    rest = eqx.nn.Embedding(5, 3, key=jax.random.key(0)), eqx.nn.LayerNorm((3, 3)), stacked
    model = Model(down, eqx.nn.Linear(6, 2, key=jax.random.key(1)), rest)
    found = training.kernels(model)
    of_layers = {"down/weight": specnorm.enclose(down), "head/weight": specnorm.enclose(model.head)}
    assert list(found) == list(of_layers)
    for path, truth in of_layers.items():
        norm = specnorm.enclose(found[path].array, **found[path].geometry)
        assert float(norm.upper) == pytest.approx(float(truth.upper), rel=2e-3)
    assert {path: dict(kernel.geometry) for path, kernel in found.items()} == {
        path: dict(kernel.geometry) for path, kernel in training.kernels(model, training.layout_of(model)).items()
    }
    assert specnorm.certify(training.rescale(model, 1.0).down, 1.0)
    assert list(training.kernels(down)) == ["weight"]
    at_stride_1 = training.kernels(model, training.with_geometry({"down/*": {"stride": 1}}))["down/weight"]
    assert at_stride_1.geometry["stride"] == 1
    with pytest.raises(KernelError, match="layout_of"):
        training.kernels({"weight": down.weight})


# -- penalty -----------------------------------------------------------------------------------------------------
@methods
@pytest.mark.sampled("gram")
def test_the_penalty_is_a_sum_over_norms(method: Any) -> None:
    tree = parameters()
    norms = [float(specnorm.measure(k.array, method, **k.geometry).value) for k in training.kernels(tree).values()]
    expected = {"sum": sum(norms), "log": np.log(norms).sum(), "hinge": sum(max(x - 4, 0) for x in norms)}
    for form, total in expected.items():
        penalty = training.SpectralPenalty(method, form=form, target=4.0)
        value, state = penalty(tree, penalty.init(tree))
        close(value, total, rtol=2e-3)
        assert list(state) == [NAMES[0], NAMES[2]], "the convolutions are one stack"
        assert value.dtype == jnp.float32
    zeros = {"Dense_0": {"kernel": jnp.zeros((4, 4))}}
    penalty = training.SpectralPenalty(method, form="log")
    assert float(penalty(zeros, penalty.init(zeros))[0]) == 0
    with pytest.raises(MethodError, match="hinge"):
        training.SpectralPenalty(form="squares")


# -- certified ---------------------------------------------------------------------------------------------------
def test_rescaled_trees_are_certified() -> None:
    tree = parameters()
    small = training.rescale(tree, 2.0)
    assert certified(small, 2.0)
    assert small["Conv_0"]["bias"] is tree["Conv_0"]["bias"]
    again = training.rescale(small, 2.0)
    close(again, small, rtol=0.0)
    at_bound = training.rescale(tree, 20.0, only_shrink=False)
    for kernel, geometry in training.kernels(at_bound).values():
        norm = specnorm.enclose(kernel, **geometry)
        assert norm.lower <= 20.0
        assert norm.upper >= 20.0 * (1 - 2e-3)
    with pytest.raises(MethodError, match="rescale looks at values while it runs"):
        jax.jit(training.rescale)(tree)


SHARDED = """
import jax, numpy as np, specnorm
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from specnorm_jax.training import SpectralPenalty, with_geometry
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()), ("part",))
def put(x, *axes):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
normal = np.random.RandomState(0).standard_normal
tree = {name: {"kernel": normal((3, 16, 13)).astype("float32")} for name in ("one", "two")}
tree = jax.tree_util.tree_map(jax.numpy.asarray, tree)
penalty = SpectralPenalty(rule=with_geometry({"*": {"layout": "WIO"}}))
state = penalty.init(tree)
moved = jax.tree_util.tree_map(lambda x: 1.1 * x + 0.1 * x**2, tree)
step = jax.jit(jax.value_and_grad(penalty, has_aux=True))
(value, after), gradient = step(moved, state)
spread = jax.tree_util.tree_map(lambda x: put(x, None, "part"), moved)
shards = jax.tree_util.tree_map(put, state)
(other, later), slope = step(spread, shards)
assert len(spread["one"]["kernel"].sharding.device_set) == 8
np.testing.assert_allclose(other, value, rtol=1e-5)
for a, b in zip(jax.tree_util.tree_leaves((slope, )), jax.tree_util.tree_leaves((gradient, )), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)
method = specnorm.methods.TensorNorm(proven=False)
kernel = moved["one"]["kernel"]
start = specnorm.init_tracking(kernel, method, layout="WIO")
found, _ = specnorm.track(spread["one"]["kernel"], method, start, layout="WIO")
expected, _ = specnorm.track(kernel, method, start, layout="WIO")
np.testing.assert_allclose(found, expected, rtol=1e-5)
print("equal")
"""


@pytest.mark.nightly
def test_sharded_kernels_and_states() -> None:
    """Kernels split over input channels and states over the entries of vectors, on eight devices made of the host."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    assert python(SHARDED, XLA_FLAGS=flags, JAX_PLATFORMS="cpu") == "equal"


# -- projections in chains of Optax ------------------------------------------------------------------------------
def fit(tree: Any, transformation: Any, steps: int = 25) -> tuple[Any, list[dict[str, float]]]:
    """Towards parameters of larger norms; the proven norms after each fifth step."""
    optax = optional("optax")
    target = jax.tree_util.tree_map(lambda x: 3 * x, parameters(seed=40))
    state = transformation.init(tree)

    def step(tree: Any, state: Any) -> Any:
        def loss(tree: Any) -> Any:
            pairs = zip(jax.tree_util.tree_leaves(tree), jax.tree_util.tree_leaves(target), strict=True)
            return sum(jnp.sum((a - b) ** 2) for a, b in pairs)

        updates, state = transformation.update(jax.grad(loss)(tree), state, tree)
        return optax.apply_updates(tree, updates), state

    norms, compiled = [], jax.jit(step)
    for j in range(steps):
        tree, state = compiled(tree, state)
        if j % 5 == 4:
            norms.append(uppers(tree))
    return tree, norms


FACTOR = {"tn": 1.1, "symbol": 1.1, "gram": 1.002}
"""What the norms may exceed the bound by while training: TN and the symbol's norm follow their vectors; Gram is a
bound, and 0.2 % is what the enclosure and rounding take."""


@pytest.mark.parametrize(
    ("method", "bound"), [(METHODS[0], 1.0), (METHODS[1], 5.0), (METHODS[2], 1.0)], ids=["tn-1", "symbol-5", "gram-1"]
)
@pytest.mark.sampled("gram-1")
def test_the_projection_keeps_the_norms_at_the_bound(method: Any, bound: float) -> None:
    """All along, in steps that move a kernel by several percent; then one call makes it certain."""
    optax = optional("optax")
    chain = optax.chain(optax.adam(0.01 * bound), training.project_spectral_norm(bound, method=method))
    tree, norms = fit(parameters(), chain)
    assert max(max(n.values()) for n in norms) <= FACTOR[method.name] * bound
    # A constraint that is active: what a layer is below it, the method's value is above the norm.
    assert min(norms[-1][name] for name in NAMES[:2]) > 0.6 * bound
    assert certified(training.rescale(tree, bound), bound)


# -- Flax and Equinox --------------------------------------------------------------------------------------------
def test_the_documentation_runs_with_optax() -> None:
    optional("optax")
    page = (DOCS / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(import optax\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, Any] = {"params": parameters()}
        exec(compile(block, "training.md", "exec"), names)
        _, seen = fit(names["params"], names["optimizer"], steps=5)
        assert max(seen[-1].values()) <= 1.1
