"""Check certificates of specnorm without its code: python -m specnorm_check FILE MODEL.

A certificate claims that the spectral norms of convolution layers (the largest gains in
the Euclidean norm), or the Lipschitz constants of ONNX networks, are at most some
numbers, in real arithmetic. Copy this folder and read it, together with the page
the README of this folder, which has the proofs: "Lemma 2, step 3" in a
docstring is that step of the page. For layers: `layers` holds the lemmas, `arithmetic`
exact integers and rounding, `statements` what a claim says. For networks: `graphs` reads
the file, `rules` bounds one operator, `parts` several layers together, `networks` puts
them together. `claims` checks one claim after the other, `files` reads certificates and
models. It needs Python, NumPy and, to read a model, safetensors or onnx.
"""

from specnorm_check.arithmetic import Refused
from specnorm_check.claims import Claim, Verdict, check, without_claim
from specnorm_check.files import (
    VERSION,
    read_certificate,
    read_content,
    read_model,
    shapes_of,
)
from specnorm_check.layers import Layer, padding_factor, proven_norm, stride_one_kernels
from specnorm_check.networks import Network
from specnorm_check.parts import LAYER_OPERATORS
from specnorm_check.statements import (
    FLOATING,
    Part,
    Together,
    Units,
    digest,
    float_up,
    plain,
    read_layer,
)

__all__ = [
    "FLOATING",
    "LAYER_OPERATORS",
    "VERSION",
    "Claim",
    "Layer",
    "Network",
    "Part",
    "Refused",
    "Together",
    "Units",
    "Verdict",
    "check",
    "digest",
    "float_up",
    "padding_factor",
    "plain",
    "proven_norm",
    "read_certificate",
    "read_content",
    "read_layer",
    "read_model",
    "shapes_of",
    "stride_one_kernels",
    "without_claim",
]
