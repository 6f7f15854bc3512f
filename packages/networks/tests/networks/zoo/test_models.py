"""Models as people build them, with random weights: each has a bound, or the operator without a rule is named.

CI takes some of them, ``nox -s zoo`` all; nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from helpers.checks import present  # noqa: E402
from networks.torch_modules import jacobian_norm  # noqa: E402
from networks.zoo.no_torchvision import without_torchvision  # noqa: E402
from specnorm_networks import network_bound, network_graph, within  # noqa: E402
from specnorm_networks.answering import bound  # noqa: E402

nn = torch.nn
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("seeded_torch")]
_torchvision = pytest.fixture(scope="module")(without_torchvision)
IMAGE = (3, 32, 32)
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}


def hugging_face(kind: str, **config: Any) -> Callable[[], Any]:
    def make() -> Any:
        package = pytest.importorskip("transformers")
        return getattr(package, f"{kind}Model")(getattr(package, f"{kind}Config")(**config))

    return make


def timm(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: pytest.importorskip("timm").create_model(name, pretrained=False, **options)


def mixer(**classes: str) -> Callable[[], Any]:
    """A small MLP-Mixer of timm, or with other classes of its module a ResMLP."""

    def make() -> Any:
        module = pytest.importorskip("timm.models.mlp_mixer")
        sizes = {"num_classes": 0, "img_size": 32, "patch_size": 8, "num_blocks": 1, "embed_dim": 32}
        own = {word: getattr(module, name) for word, name in classes.items()}
        return module.MlpMixer(**sizes, **own, **({"mlp_ratio": 4} if own else {}))

    return make


SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    # name: the model, and the operator without a rule; empty: it has a bound
    "ResNet": (hugging_face("ResNet", embedding_size=8, layer_type="basic", **STAGES), ""),
    "ConvNeXt": (hugging_face("ConvNext", num_stages=2, **STAGES), ""),
    "MobileNetV2": (hugging_face("MobileNetV2", depth_multiplier=0.25, image_size=32), ""),
    "ViT": (hugging_face("ViT", image_size=32, patch_size=8, **SMALL_VIT), ""),
    "RegNet": (hugging_face("RegNet", embedding_size=8, groups_width=4, **STAGES), "Mul"),
}
OF_TIMM: dict[str, tuple[Callable[[], Any], str]] = {
    **{name: (timm(name), "") for name in ("resnet18", "resnet10t", "convnext_atto", "regnetx_002", "repvgg_a0")},
    **{name: (timm(name), "Mul") for name in ("mobilenetv3_small_050", "efficientnet_b0")},
    "MLP-Mixer": (mixer(), ""),
    "ResMLP": (mixer(block_layer="ResBlock", norm_layer="Affine"), ""),
    "vit_tiny_patch16_224": (timm("vit_tiny_patch16_224", img_size=32, depth=1), ""),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.nightly
def test_bounds_of_transformers_models_hold(name: str) -> None:
    check(*MODELS[name])


@pytest.mark.usefixtures("_torchvision")
@pytest.mark.parametrize("name", OF_TIMM)
@pytest.mark.nightly
def test_bounds_of_timm_models_hold(name: str) -> None:
    check(*OF_TIMM[name])


def check(make: Callable[[], Any], operator: str) -> None:
    model = make().eval()
    found = network_bound(model, IMAGE, budget=10)
    assert found.checked.inputs > 0
    assert bool(operator) == (found.upper is None)
    assert not operator or found.unknown[0].operator == operator
    if not operator:
        assert found.checked.samples == (2, 3, 16)
        assert found.digest


@pytest.mark.nightly
def test_squeeze_and_excitation_has_a_bound_on_a_box() -> None:
    """A value times its own gate has a constant where both are bounded."""
    graph = network_graph(MODELS["RegNet"][0]().eval(), IMAGE)
    found = bound(within(graph, -1, 1))
    assert found.checked.complete
    assert 0 < found.checked.reached <= present(found.upper) <= present(found.product)


def normalised(name: str) -> Any:
    """A network with one of deel-torchlip's normalisations, trained for three steps."""
    package = pytest.importorskip("deel.torchlip")
    layers = nn.Conv2d(3, 4, 3), getattr(package, name)(4), package.GroupSort2(), nn.Conv2d(4, 2, 3)
    model = nn.Sequential(*layers)
    for _ in range(3):
        model(3 * torch.randn(8, 3, 6, 6) + 1)
    return model.eval()


@pytest.mark.parametrize("name", ["BatchCentering", "BatchLipNorm"])
@pytest.mark.sampled("BatchLipNorm")
def test_normalisations_have_a_bound_when_they_are_baked(name: str) -> None:
    """They branch on their own buffers, which no trace follows."""
    model = normalised(name)
    x = torch.randn(5, 3, 6, 6)
    wanted = model(x)
    assert specnorm_torch.bake_(model) == ["1"]
    assert torch.allclose(model(x), wanted, rtol=1e-5, atol=1e-6)
    found = network_bound(model, (3, 6, 6))
    assert max(jacobian_norm(model, each) for each in x) <= present(found.upper) <= 2


@pytest.mark.nightly
def test_a_network_of_orthogonium() -> None:
    package = pytest.importorskip("orthogonium.legacy.cayley_ortho_conv")
    model = nn.Sequential(package.Cayley(4, 6, 3), package.GroupSort(), package.Cayley(6, 4, 3, stride=2)).eval()
    found = network_bound(model, (4, 4, 4))
    assert found.checked.complete
    assert 0.5 < present(found.upper) <= 1.001
