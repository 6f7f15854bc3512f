"""The names of arrays in attention layers, by ``model_type`` of transformers' ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from specnorm.errors import MethodError


@dataclass(frozen=True)
class Names:
    """Names of a layer's modules, without ``.weight`` and ``.bias``; {} stands for the layer's place.

    Parameters
    ----------
    query, key : str
        Modules of the matrices. Equal: one matrix has the rows of queries, keys and values, in this order.
    norm : str
        Module of the norm before them. {before} stands for the place of the layer before, and ``first_norm`` is then
        the norm before the first layer, {} the place of all layers.
    scope : str
        Beginning of the names of all arrays of the attention; none but ``beside`` may be there.
    layer_norm : bool
        Whether the norm is a layer norm; else it is an RMS norm.
    beside : tuple of str
        Parts of names in the scope, besides query and key, that change no logit.
    transposed : bool
        Whether matrices have inputs in the rows.
    rotary : bool
    query_norm, key_norm : str
        RMS norms of each head's queries and keys; empty: none.
    first_norm : str
    """

    query: str
    key: str
    norm: str
    scope: str
    layer_norm: bool = False
    beside: tuple[str, ...] = ()
    transposed: bool = False
    rotary: bool = False
    query_norm: str = ""
    key_norm: str = ""
    first_norm: str = ""

    @classmethod
    def of(cls, given: Any) -> Names:
        """Read names that the user gives."""
        known = {f.name for f in fields(cls)}
        if not isinstance(given, Mapping) or not {"query", "key", "norm", "scope"} <= given.keys() <= known:
            raise MethodError(
                f"the names of attention are {given!r}; expected an object with query, key, norm and scope, and "
                f"possibly {', '.join(sorted(known - {'query', 'key', 'norm', 'scope'}))}."
            )
        values = dict(given)
        values["beside"] = tuple(values.get("beside", ()))
        for name in ("query", "key", "norm", "scope"):
            if not isinstance(values[name], str) or "{}" not in values[name].replace("{before}", "{}"):
                raise MethodError(f"the name of attention {name} is {values[name]!r}: {{}} has to stand for the layer.")
        return cls(**values)

    @property
    def is_fused(self) -> bool:
        """Whether queries, keys and values are one matrix."""
        return self.query == self.key

    def places(self, names: list[str]) -> list[str]:
        """Return the places of attention layers, by the names of all arrays."""
        start, _, end = self.query.partition("{}")
        pattern = re.compile(rf"{re.escape(start)}(.*?){re.escape(end)}\.weight")
        matches = (pattern.fullmatch(name) for name in names)
        return [match[1] for match in matches if match is not None]

    def norm_of(self, place: str) -> str | None:
        """Return the module of the norm before a layer; None if the place has no number where one is needed."""
        if "{before}" not in self.norm:
            return self.norm.replace("{}", place)
        match = re.fullmatch(r"(.*?)([^.]+(?:\.[^.]+)?)\.(\d+)", place)
        if match is None:
            return None
        root, stack, number = match[1], match[2], int(match[3])
        if number == 0:
            return self.first_norm.replace("{}", root)
        return self.norm.replace("{before}", f"{root}{stack}.{number - 1}")


_LLAMA = Names(
    "{}.self_attn.q_proj",
    "{}.self_attn.k_proj",
    "{}.input_layernorm",
    "{}.self_attn.",
    beside=("v_proj", "o_proj"),
    rotary=True,
)
_QWEN3 = replace(_LLAMA, query_norm="{}.self_attn.q_norm", key_norm="{}.self_attn.k_norm")
_BERT = Names(
    "{}.attention.self.query",
    "{}.attention.self.key",
    "{before}.output.LayerNorm",
    "{}.attention.",
    layer_norm=True,
    beside=("self.value", "output"),
    first_norm="{}embeddings.LayerNorm",
)
MODELS: dict[str, Names] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "gpt2": Names(
        "{}.attn.c_attn",
        "{}.attn.c_attn",
        "{}.ln_1",
        "{}.attn.",
        layer_norm=True,
        beside=("c_proj", "bias", "masked_bias"),
        transposed=True,
    ),
    "bert": _BERT,
    "roberta": _BERT,
    "vit": Names(
        "{}.attention.attention.query",
        "{}.attention.attention.key",
        "{}.layernorm_before",
        "{}.attention.",
        layer_norm=True,
        beside=("attention.value", "output"),
    ),
    "timm_vit": Names("{}.attn.qkv", "{}.attn.qkv", "{}.norm1", "{}.attn.", layer_norm=True, beside=("proj",)),
}
"""Names by ``model_type``; "timm_vit", of timm's vision transformers, is given by the user."""
