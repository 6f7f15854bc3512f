"""Bound the largest logits of a model's attention layers, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.model_arrays import Tensor

import specnorm
from specnorm.errors import ModelFileError, SpecnormError
from specnorm_audit.attention import config as configs
from specnorm_audit.attention.config import Attention, Missing
from specnorm_audit.processes import in_order

_WAITING = 4
"""Layers whose arrays an executor has at once."""


@dataclass(frozen=True)
class LogitRow:
    """The largest logits of one attention layer.

    Parameters
    ----------
    name : str
        Place of the layer in the names of its arrays.
    upper : tuple of float
        Proven upper bound on the absolute logits of each head, over all tokens that the norm before it can give. One
        number if a norm scales the queries and keys of each head: it holds for all heads.
    heads, kv_heads : int or None
    offsets : str
        The offsets of rotary positions at which it holds, in words; empty without rotary positions.
    reason : str or None
        Reason why there is no bound.
    """

    name: str
    upper: tuple[float, ...] = ()
    heads: int | None = None
    kv_heads: int | None = None
    offsets: str = ""
    reason: str | None = None

    @property
    def status(self) -> Literal["ok", "error"]:
        """Whether the layer has bounds."""
        return "ok" if self.reason is None and all(map(np.isfinite, self.upper)) else "error"

    @property
    def largest(self) -> tuple[float, int]:
        """The largest bound, and its head."""
        head = int(np.argmax(self.upper))
        return self.upper[head], head

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name, "upper": [x if np.isfinite(x) else None for x in self.upper], "heads": self.heads,
            "kv_heads": self.kv_heads, "offsets": self.offsets, "status": self.status, "reason": self.reason,
        }  # fmt: skip


def rows(
    arrays: Sequence[Tensor],
    used: Mapping[str, Tensor],
    path: str | None,
    stated: Mapping[str, Any],
    executor: Executor | None = None,
) -> Iterator[LogitRow]:
    """Yield the rows of a model's attention layers.

    Parameters
    ----------
    arrays : sequence of Tensor
        All arrays of the file.
    used : mapping of str to Tensor
        The matrices that layers use, by name.
    path : str, optional
        Path of the file, beside which ``config.json`` is looked for.
    stated : mapping
        What the user says, as ``config.json`` would; it counts before the file's own.
    """
    config = {**configs.read(path), **stated}
    advice = "Put the model's config.json beside the file, or state the facts (attention=)"
    try:
        attention = Attention.of(config)
    except Missing as missing:
        raise ModelFileError(f"the logits of attention cannot be bounded: {missing}. {advice}.") from None
    by_name = {tensor.name: tensor for tensor in arrays}
    places = attention.names.places(list(by_name))
    if not places:
        query = attention.names.query.replace("{}", "*")
        raise ModelFileError(f"no array is called {query}.weight, as queries of this model are. {advice}.")
    submit = partial(_submitted, attention, by_name, used, executor)
    with closing(in_order(enumerate(places), submit, lambda _: 1, _WAITING + 1)) as answers:
        for place, future in answers:
            yield _answer(place, future)


def _submitted(
    attention: Attention,
    by_name: Mapping[str, Tensor],
    used: Mapping[str, Tensor],
    executor: Executor | None,
    numbered: tuple[int, str],
) -> tuple[str, Future[LogitRow]]:
    """Read a layer and have it bounded; a layer of which something is missing is answered at once."""
    number, place = numbered
    done: Future[LogitRow] = Future()
    try:
        job = _Job.of(place, number, attention, by_name, used)
    except (Missing, ModelFileError) as error:
        done.set_result(LogitRow(place, reason=f"{str(error).rstrip('.')}."))
        return place, done
    if executor is not None:
        return place, executor.submit(bounded, job)
    done.set_result(bounded(job))
    return place, done


def _answer(place: str, future: Future[LogitRow]) -> LogitRow:
    try:
        return future.result()
    except Exception as error:
        return LogitRow(place, reason=f"the executor lost it: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Job:
    """One layer: its facts and its arrays, by what they are for."""

    name: str
    attention: Attention
    scale: float | None
    arrays: Mapping[str, NDArray[Any]]
    sizes: tuple[int, int]
    """Rows of the queries and of the keys."""

    @classmethod
    def of(
        cls, place: str, number: int, attention: Attention, by_name: Mapping[str, Tensor], used: Mapping[str, Tensor]
    ) -> _Job:
        """Read the arrays of a layer, or say what is missing."""
        names = attention.names
        modules = {"query": names.query, "key": names.key, "query_norm": names.query_norm, "key_norm": names.key_norm}
        own = {role: name.replace("{}", place) for role, name in modules.items() if name}
        _check_scope(names.scope.replace("{}", place), [*own.values()], names.beside, by_name)
        arrays: dict[str, NDArray[Any]] = {}
        if names.query_norm:
            for role in ("query_norm", "key_norm"):
                arrays[role] = _vector(f"{own[role]}.weight", by_name)
            heads = tuple(len(arrays[role]) for role in ("query_norm", "key_norm"))
            return cls(place, attention, attention.scale, arrays, (heads[0], heads[1]))
        norm = names.norm_of(place)
        if norm is None:
            raise Missing(f"the place {place!r} has no number, so the norm before it is not known")
        # Old files of BERT have the names gamma and beta.
        gain = f"{norm}.gamma" if f"{norm}.weight" not in by_name and f"{norm}.gamma" in by_name else f"{norm}.weight"
        shift = f"{norm}.beta" if gain.endswith("gamma") else f"{norm}.bias"
        arrays["gain"] = _vector(gain, by_name)
        if shift in by_name:
            if not names.layer_norm:
                raise Missing(f"{shift} is there, which an RMS norm does not have")
            arrays["shift"] = _vector(shift, by_name)
        for role in ("query", "key") if not names.is_fused else ("query",):
            name = f"{own[role]}.weight"
            if name not in used:
                raise Missing(f"{name} is not there, or is no matrix that a layer is known to use as it is")
            matrix = np.asarray(used[name].load())
            arrays[role] = matrix.T if names.transposed else matrix
            bias = f"{own[role]}.bias"
            if bias in by_name:
                arrays[f"{role}_bias"] = _vector(bias, by_name)
        columns = arrays["query"].shape[1]
        size = attention.head_size or columns // attention.heads
        rows_of = attention.heads * size, attention.kv_heads * size
        if names.is_fused:
            _split(arrays, rows_of)
        for role, count in zip(("query", "key"), rows_of, strict=True):
            if arrays[role].shape != (count, columns):
                raise Missing(
                    f"{own[role]}.weight has the shape {arrays[role].shape}; {attention.heads} heads of queries and "
                    f"{attention.kv_heads} of keys, of size {size}, take {(count, columns)}"
                )
        scale = attention.scale
        if attention.divided:
            scale = (size**-0.5 if scale is None else scale) / (number + 1)
        return cls(place, attention, scale, arrays, rows_of)


def _check_scope(scope: str, own: Sequence[str], beside: Sequence[str], by_name: Mapping[str, Tensor]) -> None:
    """Refuse a layer with an array in it of which nothing is known: it may change the logits."""
    known = tuple(f"{scope}{part}" for part in beside)
    for name in by_name:
        if not name.startswith(scope):
            continue
        module = name.rpartition(".")[0]
        if module in own or any(name == part or name.startswith(f"{part}.") for part in known):
            continue
        raise Missing(f"{name} is there, and nothing says what it does to the logits")


def _vector(name: str, by_name: Mapping[str, Tensor]) -> NDArray[Any]:
    if name not in by_name or len(by_name[name].shape) != 1:
        raise Missing(f"{name} is not there, or is no vector")
    return np.asarray(by_name[name].load())


def _split(arrays: dict[str, NDArray[Any]], sizes: tuple[int, int]) -> None:
    """Take queries and keys out of one matrix."""
    end = sizes[0] + sizes[1]
    if arrays["query"].shape[0] != end + sizes[1]:
        raise Missing(
            f"one matrix of queries, keys and values has {arrays['query'].shape[0]} rows, not {end + sizes[1]}"
        )
    for role in [name for name in ("query", "query_bias") if name in arrays]:
        whole = arrays[role]
        arrays[role.replace("query", "key")] = whole[sizes[0] : end]
        arrays[role] = whole[: sizes[0]]


def bounded(job: _Job) -> LogitRow:
    """Bound the logits of one layer, the heads of one head of keys at a time."""
    attention, arrays = job.attention, job.arrays
    rope = None
    if attention.angles:
        rope = (attention.angles, attention.offsets, "interleaved" if attention.interleaved else "half")
    facts: dict[str, Any] = {"heads": attention.heads, "kv_heads": attention.kv_heads, "offsets": attention.in_words()}
    upper: list[float] = []
    try:
        if "query_norm" in arrays:
            query, key = (np.diag(arrays[role].astype(np.float64)) for role in ("query_norm", "key_norm"))
            upper = [float(specnorm.logit_bound(query, key, heads=1, rope=rope, scale=job.scale)[0])]
            return LogitRow(job.name, tuple(upper), **facts)
        gain = arrays["gain"]
        for head in range(attention.kv_heads):
            parts = [
                slice(head * rows // attention.kv_heads, (head + 1) * rows // attention.kv_heads) for rows in job.sizes
            ]
            biases = [
                arrays[role][part] if role in arrays else None
                for role, part in zip(("query_bias", "key_bias"), parts, strict=True)
            ]
            bounds = specnorm.logit_bound(
                arrays["query"][parts[0]],
                arrays["key"][parts[1]],
                heads=attention.heads // attention.kv_heads,
                kv_heads=1,
                gain=(gain, arrays.get("shift")) if attention.names.layer_norm else gain,
                bias=None if biases[0] is None and biases[1] is None else (biases[0], biases[1]),
                rope=rope,
                scale=job.scale,
            )
            upper += np.asarray(bounds, dtype=np.float64).tolist()
    except SpecnormError as error:
        return LogitRow(job.name, reason=str(error), **facts)
    return LogitRow(job.name, tuple(upper), **facts)
