"""Which operators twenty networks need: the table of docs/check-it-yourself.md.

``python tests/checked_operators.py`` exports the networks and writes the table anew; it takes a minute. The checker has
a rule for an operator only if at least one in twenty of the networks needs it (`check/test_needed_rules.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
from marks import put
from real_weights import real_file
from specnorm_check.graphs import ALLOWED_ATTRIBUTES, known_operator

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "check-it-yourself.md"
BEGIN = "<!-- operators: made by `python tests/checked_operators.py` -->\n"
END = "<!-- end of operators -->"
ONE_IN = 20
"""An operator has a rule if at least one network in so many needs it."""

FILES: dict[str, Path] = {
    "dense-relu": DOCS / "reference-networks" / "dense-relu.onnx",
    "dense-abs": DOCS / "reference-networks" / "dense-abs.onnx",
    "convolutions": DOCS / "reference-networks" / "convolutions.onnx",
    "pooling": DOCS / "reference-networks" / "pooling.onnx",
    "residual": DOCS / "reference-networks" / "residual.onnx",
    "dense.onnx, of certified accuracy": DOCS / "examples" / "certified" / "dense.onnx",
    "conv.onnx, of certified accuracy": DOCS / "examples" / "certified" / "conv.onnx",
    "RFB-320": real_file("rfb320"),
}
"""Networks that are files."""


# -- networks that are exported ----------------------------------------------------------------------------------------
def exported(model: object, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return the file that a certificate of a live model is about."""
    from specnorm_networks import network_graph
    from specnorm_networks.certificates import with_fixed_sizes

    graph_model = network_graph(model, shape).model
    assert graph_model is not None
    assert graph_model.file is not None
    file: onnx.ModelProto = onnx.ModelProto.FromString(with_fixed_sizes(graph_model.file, (1, *shape)))
    return file


def published(name: str) -> onnx.ModelProto:
    from networks.published import NETWORKS

    build, shape = NETWORKS[name]
    return exported(build(), shape)


def noise_of_dncnn() -> onnx.ModelProto:
    from networks.published import Denoiser

    return exported(Denoiser().noise.eval(), (1, 40, 40))


def residual_block() -> onnx.ModelProto:
    from networks import small_networks

    return exported(small_networks.residual_block(), (2, 8, 8))


def chain() -> onnx.ModelProto:
    from networks import small_networks

    return exported(small_networks.chain(), (1, 12, 12))


def three_convolutions() -> onnx.ModelProto:
    from bench.networks import three_convolutions

    return exported(three_convolutions(), (1, 16, 16))


def function_of_jax() -> onnx.ModelProto:
    from networks import small_networks

    return exported(small_networks.function_of_jax, (2, 6, 6))


def of_transformers(name: str) -> onnx.ModelProto:
    """Return a file as torch's own exporter writes it, which folds batch normalisations and computes means."""
    import torch
    from networks.zoo.test_models import IMAGE, MODELS

    build, _ = MODELS[name]
    program = torch.onnx.export(build().eval(), (torch.zeros(1, *IMAGE),), dynamo=True, verbose=False)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


EXPORTED: dict[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-20": lambda: published("resnet20"),
    "DnCNN": noise_of_dncnn,
    "x - DnCNN(x)": lambda: published("x - dncnn25"),
    "residual block of stride 2, torch": residual_block,
    "chain of three convolutions and a matrix, torch": chain,
    "three convolutions of 8 channels, torch": three_convolutions,
    "convolution and means, JAX": function_of_jax,
    "ResNet, transformers": lambda: of_transformers("ResNet"),
    "MobileNetV2, transformers": lambda: of_transformers("MobileNetV2"),
    "ConvNeXt, transformers": lambda: of_transformers("ConvNeXt"),
    "RegNet, transformers": lambda: of_transformers("RegNet"),
    "ViT, transformers": lambda: of_transformers("ViT"),
}
"""Networks that are exported from live models, which takes seconds each."""


# -- the table ---------------------------------------------------------------------------------------------------------
def operators_of(model: onnx.ModelProto) -> list[str]:
    """Return the names of a network's operators, each once; constants are no operators."""
    names = {known_operator(node) for node in model.graph.node if node.op_type != "Constant"}
    return sorted(names)


def row(network: str, operators: list[str]) -> str:
    """Return a network's line: the operators with a rule, and those without, for which it has no certificate."""
    with_rule = ", ".join(f"`{name}`" for name in operators if name in ALLOWED_ATTRIBUTES)
    without_rule = ", ".join(f"`{name}`" for name in operators if name not in ALLOWED_ATTRIBUTES)
    return f"| {network} | {with_rule} | {without_rule} |"


def rows_of_files() -> list[str]:
    return [row(name, operators_of(onnx.load(path))) for name, path in FILES.items()]


def rows_of_exported() -> list[str]:
    return [row(name, operators_of(build())) for name, build in EXPORTED.items()]


def table(rows: list[str]) -> str:
    return "\n".join(["| network | operators with a rule | operators without one |", "|---|---|---|", *rows, ""])


def rows_of_page() -> dict[str, tuple[set[str], set[str]]]:
    """Return the page's table: the operators with a rule and those without, by the names of networks."""
    _, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = [line for line in after.partition(END)[0].splitlines() if line]
    _, _, *lines_of_networks = lines
    rows = {}
    for line in lines_of_networks:
        network, with_rule, without_rule = (cell.strip() for cell in line.strip("|").split("|"))
        rows[network] = (names_in(with_rule), names_in(without_rule))
    return rows


def names_in(cell: str) -> set[str]:
    return {word.strip("`") for word in cell.split(", ") if word}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    page = PAGE.read_text(encoding="utf-8")
    made = table([*rows_of_files(), *rows_of_exported()])
    PAGE.write_text(put(page, BEGIN, END, made), encoding="utf-8")
