"""What ``config.json`` beside a model's file says of its attention. What is missing is named, and never assumed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specnorm.errors import ModelFileError
from specnorm_audit.attention.names import MODELS, Names

MOST_BYTES = 2**22
"""Largest ``config.json`` that is read."""
MOST_POSITIONS = 8192
"""Number of positions up to which every offset is searched; for more, the bound is that for every real offset."""


MOST_ENTRIES = 2**16
"""Largest number of entries of a head with rotary positions, each two of which have an angle."""


class Missing(Exception):
    """A fact of the attention is not stated. The text says which, as an end of a sentence."""


def read(path: str | None) -> Mapping[str, Any]:
    """Return the content of ``config.json`` beside a file, or in a folder; empty if there is none."""
    if path is None:
        return {}
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    place = folder / "config.json"
    if not place.is_file():
        return {}
    try:
        with place.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ModelFileError(f"{place} has more than {MOST_BYTES} bytes.")
        config = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{place} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{place} is not a JSON object.")
    return config


@dataclass(frozen=True)
class Attention:
    """Facts of all attention layers of a model.

    Parameters
    ----------
    names : Names
    heads, kv_heads : int
    angles : tuple of float
        Of rotary positions, in radians; empty: none.
    offsets : int or None
        Positions of a query minus that of a key are 0, ..., offsets - 1; None: any number.
    scale : float or None
        Factor of the logits; None: 1 / sqrt(d_head).
    divided : bool
        Whether the logits of layer number n (from 0) are also divided by n + 1.
    interleaved : bool
    head_size : int or None
        None: the number of the matrix's columns over ``heads``.
    """

    names: Names
    heads: int
    kv_heads: int
    angles: tuple[float, ...] = ()
    offsets: int | None = None
    scale: float | None = None
    divided: bool = False
    interleaved: bool = False
    head_size: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Attention:
        """Read the attention of a configuration; `Missing` names what it lacks."""
        names = _names(config)
        heads = _count(config, "num_attention_heads", "n_head")
        kv_heads = _count(config, "num_key_value_heads", default=heads)
        head_size = None if config.get("head_dim") is None else _count(config, "head_dim")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise Missing(f"position_embedding_type is {config['position_embedding_type']!r}, which adds to the logits")
        scale = 1.0 if config.get("scale_attn_weights", True) is False else None
        divided = bool(config.get("scale_attn_by_inverse_layer_idx", False))
        if config.get("attn_scale") is not None:
            scale = _number(config, "attn_scale")
        if not names.rotary:
            return cls(names, heads, kv_heads, scale=scale, divided=divided, head_size=head_size)
        size = head_size or _count(config, "hidden_size") // heads
        if size > MOST_ENTRIES:
            raise Missing(f"a head has {size} entries, above the limit of {MOST_ENTRIES} for rotary positions")
        angles, varies = _angles(config, size)
        positions = _count(config, "max_position_embeddings")
        window = config.get("sliding_window") if config.get("model_type") in ("mistral", "mixtral") else None
        if window is not None:
            positions = min(positions, _count(config, "sliding_window"))
        offsets = None if varies or positions > MOST_POSITIONS else positions
        return cls(
            names, heads, kv_heads, angles, offsets, scale, divided, bool(config.get("rope_interleaved")), head_size
        )

    def in_words(self) -> str:
        """Say at which offsets the rotary positions are, if there are any."""
        if not self.angles:
            return ""
        return "every offset" if self.offsets is None else f"offsets 0 to {self.offsets - 1}"


def _names(config: Mapping[str, Any]) -> Names:
    own = config.get("names")
    if own is not None:
        return Names.of(own)
    model = config.get("model_type")
    if model is None:
        raise Missing("nothing says which model it is (model_type)")
    if model not in MODELS:
        raise Missing(f"model_type {model!r} is none of {', '.join(MODELS)}, and no names are given")
    return MODELS[model]


def _count(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    value = next((config[key] for key in keys if config.get(key) is not None), default)
    if value is None:
        raise Missing(f"nothing says {' or '.join(keys)}")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
        raise Missing(f"{' or '.join(keys)} is {value!r}, which is no number of at least 1")
    return value


def _number(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if value is None:
        raise Missing(f"nothing says {key}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise Missing(f"{key} is {value!r}, which is no positive number")
    return float(value)


def _angles(config: Mapping[str, Any], size: int) -> tuple[tuple[float, ...], bool]:
    """Return the angles of rotary positions, and whether they vary with the length of the text."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(stated, Mapping):
        raise Missing(f"the scaling of rotary positions is {stated!r}")
    theta = _number(stated if "rope_theta" in stated else config, "rope_theta")
    share = config.get("partial_rotary_factor", stated.get("partial_rotary_factor", 1.0))
    turned = int(size * share) if isinstance(share, int | float) and 0 < share <= 1 else 0
    if turned < 2 or turned % 2:
        raise Missing(f"rotary positions turn {turned} of {size} entries of a head")
    angles = [theta ** (-2 * j / turned) for j in range(turned // 2)]
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind == "default":
        return tuple(angles), False
    if kind == "linear":
        return tuple(angle / _number(stated, "factor") for angle in angles), False
    if kind in ("dynamic", "llama3"):
        return tuple(angles), True
    raise Missing(f"rotary positions are scaled by the type {kind!r}; known are default, linear, dynamic and llama3")
