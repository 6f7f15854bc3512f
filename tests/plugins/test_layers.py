"""A framework's own layer in place of a kernel: measured is what the layer computes, as its outputs say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import PUBLIC
from helpers.processes import FINDS_TESTS, python

import specnorm
from specnorm.errors import GeometryError, MethodError, NoBackend
from specnorm.methods import Gram

SIZE = 5


def matrix_norm_of(run: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> float:
    """Norm of the affine map ``run`` of a batch of inputs of one shape, from its values on a basis."""
    count = int(np.prod(shape))
    basis = np.concatenate([np.zeros((1, count)), np.eye(count)]).reshape(-1, *shape).astype(np.float32)
    out = np.asarray(run(basis), dtype=np.float64).reshape(count + 1, -1)
    return float(np.linalg.norm(out[1:] - out[0], 2))


def check(layer: Any, truth: float, **size: Any) -> None:
    """The layer is enclosed at its size, with nothing said but the size."""
    found = specnorm.enclose(layer, rtol=1e-3, **size)
    lower, upper = (float(np.asarray(specnorm.backends.backend_for(x).to_numpy(x))) for x in (found.lower, found.upper))
    assert lower * (1 - 1e-5) <= truth <= upper * (1 + 1e-5), (lower, truth, upper)
    assert upper < 1.02 * lower


TORCH: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "plain": ("Conv2d", (2, 3, 3), {}), "strided": ("Conv2d", (2, 4, 3), {"stride": 2, "padding": (1, 0), "groups": 2}),
    "dilated same": ("Conv1d", (2, 3, 3), {"dilation": 2, "padding": "same"}),
    "circular": ("Conv2d", (2, 3, 3), {"padding": 1, "padding_mode": "circular"}),
    "circular same": ("Conv2d", (2, 4, (3, 2)), {"padding": "same", "padding_mode": "circular"}),
    "reflect": ("Conv1d", (2, 3, 3), {"padding": 1, "padding_mode": "reflect"}),
    "transposed": ("ConvTranspose2d", (2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "transposed groups": ("ConvTranspose1d", (2, 4, 3), {"stride": 2, "groups": 2}),
    "volume": ("Conv3d", (1, 2, 2), {"padding": "valid"}), "linear": ("Linear", (6, 4), {}),
}  # fmt: skip


@pytest.mark.usefixtures("seeded_torch")
@pytest.mark.parametrize("name", TORCH)
def test_torch_layers(torch: Any, name: str) -> None:
    kind, args, options = TORCH[name]
    layer = getattr(torch.nn, kind)(*args, **options)
    spatial = 0 if kind == "Linear" else int(kind[-2])
    shape = (args[0], *(SIZE,) * spatial)
    truth = matrix_norm_of(lambda x: layer(torch.from_numpy(x)).detach().numpy(), shape)
    check(layer, truth, **({"input_shape": SIZE} if spatial else {}))


def table_of(kind: str, module: Any) -> np.ndarray:
    """The outputs for each entry of an embedding, or for each pair of basis vectors of a bilinear layer."""
    torch: Any = pytest.importorskip("torch")
    if kind == "Bilinear":
        first, second = (torch.eye(n) for n in (module.in1_features, module.in2_features))
        pairs = [module(x, y) - module.bias for x in first for y in second]
    else:
        pairs = [module(torch.tensor([[n]])).flatten() for n in range(module.num_embeddings)]
    return np.asarray(torch.stack(pairs).detach(), dtype=np.float64)


@pytest.mark.usefixtures("seeded_torch")
@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag", "Bilinear"])
def test_torch_modules_with_a_matrix(torch: Any, kind: str) -> None:
    """What is constrained is measured: the matrix of the outputs, whose rows the weight holds."""
    pytest.importorskip("onnxscript", reason="audit_module")
    import specnorm_torch

    module = getattr(torch.nn, kind)(*(5, 4, 3)[: 3 if kind == "Bilinear" else 2])
    model = torch.nn.Sequential(module)
    inputs = (torch.ones(1, 5), torch.ones(1, 4)) if kind == "Bilinear" else torch.tensor([[1]])
    for prepare in (lambda: None, lambda: specnorm_torch.spectral_norm(model), lambda: specnorm_torch.rescale_(model)):
        prepare()
        check(module, float(np.linalg.norm(table_of(kind, module), 2)))
    assert specnorm.rescale(module, 0.5).shape == module.weight.shape
    assert specnorm.certify(module, 1.0)
    with torch.no_grad():
        module.weight *= 7
    assert specnorm_torch.rescale_(model, 2.0) == ["0.weight"]
    assert specnorm.certify(module, 2.0)
    assert not specnorm.certify(module, 1.99)
    true = float(np.linalg.norm(table_of(kind, module), 2))
    for report in (specnorm.audit(model), specnorm_torch.audit_module(module, inputs)):
        assert "1 of 1 layer proven" in repr(report)
        (row,) = report.layers
        assert row.lower <= true * (1 + 1e-6)
        assert true <= row.upper * (1 + 1e-6)
    monitored = specnorm_torch.NormMonitor(model, every=1)(0)
    assert true <= monitored["upper/0"] * (1 + 1e-6) <= 1.06 * true


def doubling(base: Any) -> Any:
    class Doubled(base):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return 2 * super().forward(*inputs)

    return Doubled


def hooked(module: Any) -> Any:
    module.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return module


@pytest.mark.parametrize(
    ("make", "has"),
    [
        (lambda nn: doubling(nn.Embedding)(5, 4), "Doubled has a forward of its own"),
        (lambda nn: doubling(nn.Bilinear)(3, 4, 2), r"Doubled has a forward of its own.*weight\.flatten\(1\)"),
        (lambda nn: nn.Embedding(5, 4, max_norm=0.1), "max_norm changes its weight"),
        (lambda nn: nn.EmbeddingBag(5, 4, mode="max"), "mode='max' is no linear map"),
        (lambda nn: hooked(nn.Embedding(5, 4)), "hooks that may change"),
    ],
    ids=["scaled embedding", "scaled bilinear", "max_norm", "mode max", "hook"],
)
def test_matrices_that_are_not_used_as_they_are_stored_are_refused(torch: Any, make: Any, has: str) -> None:
    import specnorm_torch

    module = make(torch.nn)
    model = torch.nn.ModuleList([module, torch.nn.Linear(3, 3)])
    for call in (
        lambda: specnorm.enclose(module),
        lambda: specnorm.certify(module, 100.0),
        lambda: specnorm_torch.rescale_(model, 1.0),
    ):
        with pytest.raises(GeometryError, match=has):
            call()
    report = specnorm.audit(model)
    assert "1 of 2 layers proven" in repr(report)
    with pytest.warns(UserWarning, match=has):
        specnorm_torch.NormMonitor(model)
    with pytest.warns(UserWarning, match="leaves the weights of 0 as they are"):
        specnorm_torch.spectral_norm(model)


def test_torch_parametrised_layers_have_their_gradient(torch: Any) -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(2, 3, 3, stride=2))
    value = specnorm.grid_bound(layer)
    value.backward()
    assert layer.parametrizations.weight.original0.grad is not None
    assert float(value.detach()) == float(
        specnorm.grid_bound(layer.weight.detach(), stride=2, padding=0, padding_mode="zeros")
    )


@pytest.mark.usefixtures("seeded_torch")
def test_a_torch_layer_whose_hook_changes_its_map_is_refused(torch: Any) -> None:
    layer = torch.nn.Linear(4, 4)
    layer.register_forward_hook(lambda _module, _inputs, _output: None)
    assert specnorm.certify(layer, 10.0)
    layer.register_forward_hook(lambda _module, _inputs, output: 100 * output)
    with pytest.raises(MethodError, match="Linear does not use its weight as it is stored"):
        specnorm.certify(layer, 10.0)

    class Calls(list[Any]):
        """A hook that keeps what it sees, and is empty, so that it counts as false, before it has seen any."""

        def __call__(self, _module: Any, inputs: Any) -> Any:
            return (100 * inputs[0],)

    other = torch.nn.Linear(4, 4)
    other.register_forward_pre_hook(Calls())
    with pytest.raises(MethodError, match="Linear does not use its weight as it is stored"):
        specnorm.certify(other, 10.0)


EVERY = PUBLIC | {
    "singular_values": lambda x, **geometry: specnorm.singular_values(x, 6, k=2, **geometry),
    "track": lambda x, **geometry: specnorm.track(x, Gram(), specnorm.init_tracking(x, Gram(), **geometry), **geometry)[
        0
    ],
}


@pytest.mark.usefixtures("seeded_torch")
@pytest.mark.parametrize("name", EVERY)
def test_every_function_takes_a_layer(torch: Any, name: str) -> None:
    layer = torch.nn.Conv2d(2, 4, 3, stride=2, groups=2, bias=False)
    geometry = {"stride": 2, "groups": 2, "padding": 0, "padding_mode": "zeros"}
    assert bool(np.all(np.asarray(EVERY[name](layer) == EVERY[name](layer.weight, **geometry))))


@pytest.mark.parametrize(
    ("said", "has"),
    [
        ({"stride": 1}, r"stride=1 contradicts the layer: this Conv2d has stride=\(2, 2\)"),
        ({"groups": 1}, "groups=1 contradicts"),
        ({"padding": "same"}, "padding='same' contradicts"),
        ({"padding_mode": "circular"}, "padding_mode='circular' contradicts .*'zeros'"),
        ({"transposed": True}, "transposed=True contradicts"),
    ],
)
def test_a_keyword_that_contradicts_the_layer_is_refused(torch: Any, said: dict[str, Any], has: str) -> None:
    layer = torch.nn.Conv2d(4, 4, 3, stride=2, groups=2)
    with pytest.raises(GeometryError, match=has):
        specnorm.enclose(layer, **said)
    assert specnorm.certify(
        layer, 100.0, stride=2, groups=2, padding=[(0, 0), (0, 0)], layout="OIHW"
    )  # the same, in words


def test_what_is_no_layer_names_what_to_call(torch: Any) -> None:
    layer = torch.nn.Conv1d(2, 2, 3)
    many: Any
    for many in (layer.state_dict(), [layer.weight], {"block": {"kernel": layer.weight}}, "model.pt", Path("m.onnx")):
        with pytest.raises(NoBackend, match=r"enclose takes one layer's kernel, got .*specnorm\.audit"):
            specnorm.enclose(many)
    with pytest.raises(NoBackend, match=r"Sequential is neither an array.*specnorm\.audit measures"):
        specnorm.tn_bound(torch.nn.Sequential(layer))


# -- Flax and Equinox ----------------------------------------------------------------------------------------------
FLAX: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "same": ("Conv", (2, 3, (3, 3)), {}), "strided same": ("Conv", (2, 3, (3, 3)), {"strides": 2}),
    "valid, groups": ("Conv", (2, 4, (3,)), {"padding": "VALID", "feature_group_count": 2, "kernel_dilation": 2}),
    "pairs": ("Conv", (2, 3, (3, 2)), {"padding": ((1, 0), (2, 1))}),
    "circular": ("Conv", (2, 3, (4, 3)), {"padding": "CIRCULAR"}),
    "reflect": ("Conv", (2, 3, (3,)), {"padding": "REFLECT"}), "causal": ("Conv", (2, 3, (3,)), {"padding": "CAUSAL"}),
    "transposed": ("ConvTranspose", (2, 3, (3, 4)), {"strides": 2}),
    "transposed valid": ("ConvTranspose", (2, 3, (2,)), {"strides": 3, "padding": "VALID"}),
    "transposed pairs": ("ConvTranspose", (2, 3, (4,)), {"strides": 2, "padding": ((1, 2),)}),
    "transposed kernel": ("ConvTranspose", (2, 3, (4, 3)), {"strides": (4, 2), "transpose_kernel": True}),
    "kernel, pairs": ("ConvTranspose", (2, 3, (4,)), {"strides": 2, "padding": ((0, 2),), "transpose_kernel": True}),
    "linear": ("Linear", (6, 4), {}), "embedding": ("Embed", (6, 4), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FLAX)
@pytest.mark.sampled("same", "groups", "linear", "embedding")
def test_flax_layers(nnx: Any, name: str) -> None:
    kind, args, options = FLAX[name]
    layer = getattr(nnx, kind)(*args, **options, rngs=nnx.Rngs(0))
    if kind == "Embed":
        check(layer, float(np.linalg.norm(layer(np.arange(6)), 2)))
        for model in (layer, nnx.WeightNorm(layer, rngs=nnx.Rngs(0))):
            assert "1 of 1 layer proven" in repr(specnorm.audit(model))
        return
    spatial = 0 if kind == "Linear" else len(args[2])
    truth = matrix_norm_of(lambda x: np.asarray(layer(x)), (*(SIZE,) * spatial, args[0]))
    check(layer, truth, **({"input_shape": SIZE} if spatial else {}))


def test_flax_layers_with_products_of_their_own_are_refused() -> None:
    """Twice the layer's map was read as the layer's."""
    nnx, jax = pytest.importorskip("flax.nnx"), pytest.importorskip("jax")
    layers = {
        "dot_general": nnx.Linear(3, 4, rngs=nnx.Rngs(0), dot_general=lambda *args, **more: 2 * jax.lax.dot_general(
            *args, **more)),
        "conv_general_dilated": nnx.Conv(2, 3, (3,), rngs=nnx.Rngs(0), conv_general_dilated=lambda *args, **more: 2
            * jax.lax.conv_general_dilated(*args, **more)),
    }  # fmt: skip
    for name, layer in layers.items():
        with pytest.raises(GeometryError, match=f"has a {name} of its own"):
            specnorm.enclose(layer)


def test_a_dilation_of_another_number_of_axes_is_named(nnx: Any) -> None:
    layer = nnx.Conv(2, 4, (3, 3), kernel_dilation=(1, 2, 3), rngs=nnx.Rngs(0))
    with pytest.raises(GeometryError, match=r"kernel_dilation=\(1, 2, 3\) has 3 entries"):
        specnorm.enclose(layer)


EQUINOX: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "plain": ("Conv2d", (2, 3, 3), {}), "strided same": ("Conv1d", (2, 3, 3), {"stride": 2, "padding": "SAME"}),
    "same, lower": ("Conv1d", (2, 3, 4), {"padding": "SAME_LOWER"}),
    "groups": ("Conv2d", (2, 4, 3), {"groups": 2, "padding": ((1, 0), (2, 2)), "dilation": (1, 2)}),
    "circular": ("Conv1d", (2, 3, 3), {"padding": 1, "padding_mode": "CIRCULAR"}),
    "replicate": ("Conv1d", (2, 3, 3), {"padding": 1, "padding_mode": "REPLICATE"}),
    "transposed": ("ConvTranspose2d", (2, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    "linear": ("Linear", (6, 4), {}), "embedding": ("Embedding", (6, 4), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUINOX)
@pytest.mark.sampled("groups", "transposed", "embedding")
def test_equinox_layers(jax: Any, name: str) -> None:
    eqx: Any = pytest.importorskip("equinox")
    kind, args, options = EQUINOX[name]
    layer = getattr(eqx.nn, kind)(*args, **options, key=jax.random.key(0), dtype=np.float32)
    if kind == "Embedding":
        check(layer, float(np.linalg.norm(jax.vmap(layer)(np.arange(6)), 2)))
        assert "1 of 1 layer proven" in repr(specnorm.audit(layer))
        return
    spatial = 0 if kind == "Linear" else int(kind[-2])
    truth = matrix_norm_of(lambda x: np.asarray(jax.vmap(layer)(x)), (args[0], *(SIZE,) * spatial))
    check(layer, truth, **({"input_shape": SIZE} if spatial else {}))


def test_a_kernel_in_another_order_is_not_returned(nnx: Any) -> None:
    with pytest.raises(GeometryError, match="rescale returns a kernel, and ConvTranspose"):
        specnorm.rescale(nnx.ConvTranspose(2, 3, (3,), rngs=nnx.Rngs(0)))
    rescaled = specnorm.rescale(nnx.Conv(2, 3, (3,), rngs=nnx.Rngs(0)), 0.1)
    assert rescaled.shape == (3, 2, 3)
    assert specnorm.certify(rescaled, 0.1, layout="WIO", padding_mode="zeros")


# -- Keras, which has one library a process ---------------------------------------------------------------------------
KERAS = """
import numpy as np, keras, specnorm
from plugins.test_layers import check, matrix_norm_of
keras.utils.set_random_seed(0)
to_numpy = keras.ops.convert_to_numpy
LAYERS = [
    ("Conv2D", (3, 3), {"padding": "same", "strides": 2}, (5, 5, 2)),
    ("Conv2D", (4, (2, 3)), {"groups": 2, "dilation_rate": (1, 2)}, (5, 5, 2)),
    ("Conv1D", (3, 3), {"padding": "causal"}, (5, 2)),
    ("Conv1DTranspose", (3, 3), {"strides": 2}, (5, 2)),
    ("DepthwiseConv2D", (3,), {"depth_multiplier": 2, "padding": "same"}, (5, 5, 2)),
    ("Dense", (4,), {}, (6,)),
    ("SeparableConv2D", (3, (2, 3)), {"padding": "same", "strides": 2, "depth_multiplier": 2}, (5, 5, 2)),
    ("SeparableConv1D", (3, 3), {}, (5, 2)),
]
# Of the libraries that compile or copy, one of each kind.
for kind, args, options, shape in LAYERS if keras.backend.backend() == "numpy" else LAYERS[2::2]:
    layer = getattr(keras.layers, kind)(*args, **options)
    layer.build((None, *shape))
    check(layer, matrix_norm_of(lambda x: to_numpy(layer(x)), shape), **({"input_shape": 5} if len(shape) > 1 else {}))
    print(specnorm.measure(layer, specnorm.methods.FantasticFour()).stats["backend"])
embedding = keras.layers.Embedding(6, 4)
check(embedding, np.linalg.norm(to_numpy(embedding(np.arange(6))), 2))
print("1 of 1 layer proven" in repr(specnorm.audit(keras.Sequential([embedding]))))
kernel = keras.layers.Conv2D(3, 2)
kernel.build((None, 5, 5, 2))
whole = specnorm.enclose(kernel.kernel, layout="HWIO")
print(float(whole.upper) == float(specnorm.enclose(kernel.kernel.value, layout="HWIO").upper))
depthwise = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)
depthwise.build((None, 5, 5, 2))
depthwise.kernel.assign(specnorm.rescale(depthwise, 0.1))
print(specnorm.certify(depthwise, 0.1))
for bad in (keras.layers.Dense(3), keras.layers.LSTM(3)):
    try:
        specnorm.enclose(bad)
    except (specnorm.errors.GeometryError, specnorm.errors.NoBackend) as error:
        print(error)
"""


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.sampled("numpy")
def test_keras_layers_belong_to_the_plugin_of_their_arrays(library: str) -> None:
    if not all(map(importlib.util.find_spec, ("keras", library))):
        pytest.skip(f"keras or {library} is not installed")
    *backends, counted, variable, rescaled, unbuilt, other = python(
        KERAS, KERAS_BACKEND=library, **FINDS_TESTS
    ).splitlines()
    assert set(backends) <= {library, "numpy"}
    assert len(backends) == (8 if library == "numpy" else 3)
    assert counted == variable == rescaled == "True"
    assert "Dense has no kernel yet" in unbuilt
    assert "LSTM is neither an array nor a convolution, a linear layer or an embedding" in other


# -- what frameworks wrap arrays in -----------------------------------------------------------------------------------
def test_variables_of_flax_are_their_arrays(nnx: Any) -> None:
    linen: Any = pytest.importorskip("flax.linen")
    layer = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    array = layer.kernel[...]
    truth = float(np.linalg.norm(np.fft.fft2(np.asarray(array), (8, 8), axes=(0, 1)), 2, axis=(2, 3)).max())
    for wrapped in (layer.kernel, linen.Partitioned(array, names=(None,) * 4), nnx.Param(array), nnx.BatchStat(array)):
        assert abs(float(specnorm.conv_norm(wrapped, 8, layout="HWIO")) - truth) < 1e-5 * truth
    for name in ("f4_bound", "rescale", "value_and_grad"):
        one, other = (PUBLIC[name](x, layout="HWIO") for x in (layer.kernel, array))
        assert bool(np.all(np.asarray(one) == np.asarray(other))), name
    stack = nnx.Param(array[:, :, :, 0])
    assert bool((specnorm.matrix_norm(stack) == specnorm.matrix_norm(stack[...])).all())


def test_a_subclass_of_torchs_parameters_is_a_tensor(torch: Any) -> None:

    class Weight(torch.nn.Parameter):  # type: ignore[misc]
        """A parameter that some library marks as its own."""

    weight = torch.linspace(-1, 1, 54).reshape(3, 2, 3, 3)
    assert float(specnorm.enclose(Weight(weight)).upper) == float(specnorm.enclose(weight).upper)


def test_a_parameter_of_convolution_shape_is_not_read_in_torchs_order(nnx: Any) -> None:
    """Ones of (3, 3, 1, 1) are a blur of norm 9 in Flax's order, and three channels of norm 3 in torch's."""
    jnp: Any = pytest.importorskip("jax.numpy")
    conv = nnx.Conv(1, 1, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
    conv.kernel[...] = jnp.ones((3, 3, 1, 1))
    for call in (specnorm.enclose, specnorm.tn_bound, specnorm.conv_norm):
        with pytest.raises(GeometryError, match=rf"{call.__name__}\(conv\)"):
            call(conv.kernel)
    with pytest.raises(GeometryError, match="HWIO"):
        specnorm.certify(conv.kernel, 3.01)
    assert float(specnorm.enclose(conv.kernel, layout="HWIO").lower) > 8.9
    assert float(specnorm.enclose(conv).lower) > 8.9
    assert [specnorm.certify(conv, bound) for bound in (9.01, 8.9)] == [True, False]
    (row,) = specnorm.audit({"k": conv.kernel}).layers
    assert row.lower is not None
    assert row.lower > 8.9
    linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    assert float(specnorm.enclose(linear.kernel).upper) == float(specnorm.enclose(linear).upper)
