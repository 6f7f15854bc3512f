"""``attention="auto"``: the logits of checkpoints by the names of known models; what is missing is named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import specnorm
from specnorm.errors import MethodError, ModelFileError

pytest.importorskip("safetensors")
from safetensors.numpy import save_file

Arrays = dict[str, NDArray[np.float32]]
D, HEADS, SIZE = 12, 4, 3
LLAMA = {
    "model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 4, "hidden_size": D,
    "rope_theta": 50.0, "max_position_embeddings": 7,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_head": HEADS}


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def llama() -> Arrays:
    arrays = {}
    for layer in range(2):
        place = f"model.layers.{layer}"
        arrays[f"{place}.self_attn.q_proj.weight"] = normal(HEADS * 4, D, seed=layer)
        arrays[f"{place}.self_attn.k_proj.weight"] = normal(8, D, seed=layer + 2)
        arrays[f"{place}.self_attn.v_proj.weight"] = normal(8, D, seed=layer + 4)
        arrays[f"{place}.input_layernorm.weight"] = normal(D, seed=layer + 6)
    return arrays


def gpt2() -> Arrays:
    return {
        "h.0.attn.c_attn.weight": normal(D, 3 * D), "h.0.attn.c_attn.bias": np.zeros(3 * D, np.float32),
        "h.0.ln_1.weight": normal(D, seed=1), "h.0.ln_1.bias": np.zeros(D, np.float32),
    }  # fmt: skip


def saved(folder: Path, arrays: Arrays, config: dict[str, Any] | None) -> str:
    save_file(arrays, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder / "model.safetensors")


def test_llama(tmp_path: Path) -> None:
    """Every head against the largest dense norm, with the rotation of each pair written out."""
    arrays = llama()
    report = specnorm.audit(saved(tmp_path, arrays, LLAMA), attention="auto")
    assert [row.name for row in report.attention] == ["model.layers.0", "model.layers.1"]
    for row in report.attention:
        assert (row.status, row.offsets, len(row.upper)) == ("ok", "offsets 0 to 6", HEADS)
        gain = arrays[f"{row.name}.input_layernorm.weight"].astype(np.float64)
        for head in range(HEADS):
            query = arrays[f"{row.name}.self_attn.q_proj.weight"][4 * head :][:4] * gain
            key = arrays[f"{row.name}.self_attn.k_proj.weight"][4 * (head // 2) :][:4] * gain
            norms = []
            for offset in range(7):
                turned = query.copy()
                for j, angle in enumerate((1.0, 50.0**-0.5)):
                    c, s = math.cos(offset * angle), math.sin(offset * angle)
                    turned[j], turned[j + 2] = c * query[j] - s * query[j + 2], s * query[j] + c * query[j + 2]
                norms.append(D / 2 * np.linalg.norm(turned.T @ key, 2))
            assert max(norms) * (1 - 1e-12) <= row.upper[head] <= max(norms) * (1 + 1e-6)
    assert "model.layers.1: " in str(report)
    assert report.to_dict()["attention"][0]["heads"] == HEADS


def test_an_ignored_array_is_ignored_where_layers_are_chosen(tmp_path: Path) -> None:
    arrays = llama()
    arrays["scores.model.layers.0.self_attn.q_proj.weight"] = normal(HEADS * 4, D)
    path = saved(tmp_path, arrays, LLAMA)
    for ignored, status in (((), "error"), ("scores.*", "ok")):
        report = specnorm.audit(path, attention="auto", layers="*v_proj*", ignore=ignored)
        assert report.attention[0].status == status


def test_gpt2_has_one_matrix_with_inputs_in_its_rows(tmp_path: Path) -> None:
    arrays = gpt2()
    (row,) = specnorm.audit(saved(tmp_path, arrays, GPT2), attention="auto").attention
    centred = np.eye(D) - 1 / D
    weight = (arrays["h.0.attn.c_attn.weight"] * arrays["h.0.ln_1.weight"][:, None]).astype(np.float64)
    for head in range(HEADS):
        query, key = (centred @ weight[:, start + SIZE * head :][:, :SIZE] for start in (0, D))
        norm = D / math.sqrt(SIZE) * np.linalg.norm(query @ key.T, 2)
        assert norm * (1 - 1e-7) <= row.upper[head] <= norm * (1 + 1e-5)


def test_norms_of_heads_and_the_norm_of_the_layer_before(tmp_path: Path) -> None:
    """Qwen 3: the matrices do not count. BERT: each layer follows the norm of the one before, or of the embeddings."""
    arrays = llama()
    for layer in range(2):
        for name in ("q_norm", "k_norm"):
            arrays[f"model.layers.{layer}.self_attn.{name}.weight"] = np.full(4, 1.5, np.float32)
    config = LLAMA | {"model_type": "qwen3", "max_position_embeddings": 10**5}
    report = specnorm.audit(saved(tmp_path, arrays, config), attention="auto")
    assert [row.offsets for row in report.attention] == ["every offset"] * 2
    assert [row.upper[0] for row in report.attention] == pytest.approx([4 / 2 * 1.5**2] * 2)

    arrays = {"bert.embeddings.LayerNorm.gamma": np.ones(D, np.float32)}
    for layer in range(2):
        place = f"bert.encoder.layer.{layer}"
        for name in ("query", "key"):
            arrays[f"{place}.attention.self.{name}.weight"] = np.eye(D, dtype=np.float32)
        arrays[f"{place}.output.LayerNorm.weight"] = np.full(D, 2 + layer, np.float32)
    config = {"model_type": "bert", "num_attention_heads": HEADS}
    rows = specnorm.audit(saved(tmp_path, arrays, config), attention="auto").attention
    once = D / math.sqrt(SIZE)
    assert np.array([row.upper for row in rows]) == pytest.approx(np.array([[once] * HEADS, [4 * once] * HEADS]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "nothing says which model it is"),
        ({"rope_theta": None}, "nothing says rope_theta"),
        ({"num_attention_heads": None}, "nothing says num_attention_heads"),
        ({"max_position_embeddings": None}, "nothing says max_position_embeddings"),
        ({"model_type": "gemma2"}, "model_type 'gemma2' is none of llama, "),
        ({"head_dim": 2**39}, "a head has 549755813888 entries, above the limit of 65536"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "scaled by the type 'yarn'"),
        ({"model_type": "vit"}, r"no array is called \*\.attention\.attention\.query\.weight"),
    ],
)
def test_missing_facts_are_named(tmp_path: Path, change: dict[str, Any] | None, words: str) -> None:
    path = saved(tmp_path, llama(), None if change is None else LLAMA | change)
    with pytest.raises(ModelFileError, match=words):
        specnorm.audit(path, attention="auto")


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("self_attn.q_norm.weight", normal(4), "q_norm.weight is there, and nothing says what it does"),
        ("input_layernorm.bias", normal(D), "input_layernorm.bias is there, which an RMS norm does not have"),
        ("self_attn.q_proj.weight", normal(8, D), r"has the shape \(8, 12\); 4 heads .* take \(16, 12\)"),
        ("self_attn.k_proj.lora_A.weight", normal(2, D), "k_proj.* is there|no matrix that a layer is known to use"),
        ("input_layernorm.weight", None, "input_layernorm.weight is not there"),
    ],
)
def test_a_layer_that_is_not_as_known_has_no_bound(
    tmp_path: Path, name: str, array: NDArray[np.float32] | None, words: str
) -> None:
    """And the other layer has one; the command says so by its exit code."""
    arrays = llama() | {f"model.layers.0.{name}": normal(1) if array is None else array}
    if array is None:
        del arrays[f"model.layers.0.{name}"]
    path = saved(tmp_path, arrays, LLAMA)
    refused, other = specnorm.audit(path, attention="auto").attention
    assert (refused.status, other.status) == ("error", "ok")
    assert re.search(words, str(refused.reason))


def test_facts_by_the_command_line(tmp_path: Path) -> None:
    """A model of unknown names, with all facts stated; the exit code is 2 if a layer has no bound."""
    from specnorm_audit.commands.audit import command

    arrays = {"0.wq.weight": normal(D, D), "0.wk.weight": normal(D, D, seed=1), "0.ln.weight": np.ones(D, np.float32)}
    names = {"query": "{}.wq", "key": "{}.wk", "norm": "{}.ln", "scope": "{}.w"}
    facts = {"names": names, "num_attention_heads": HEADS}
    path = saved(tmp_path, arrays, None)
    out = tmp_path / "out.json"
    arguments = [path, "--attention", json.dumps(facts), "--output", str(out), "--quiet", "--jobs", "1"]
    assert CliRunner().invoke(command, arguments, standalone_mode=False).return_value == 0
    (row,) = json.loads(out.read_text())["attention"]
    expected = specnorm.logit_bound(arrays["0.wq.weight"], arrays["0.wk.weight"], heads=HEADS)
    assert row["upper"] == pytest.approx(expected.tolist())
    with pytest.raises(MethodError, match="has to stand for the layer"):
        specnorm.audit(path, attention=facts | {"names": names | {"key": "wk"}})
    with pytest.raises(MethodError, match="neither"):
        specnorm.audit(path, attention="llama")  # type: ignore[arg-type]


def test_a_large_file_is_read_array_by_array(tmp_path: Path) -> None:
    """14 GiB in sparse arrays of 1 GiB, more than `max_bytes`, are no matter; an array of 9 GiB is refused."""
    for count, gib in ((14, 1), (1, 9)):
        header = {"layer.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
        for n in range(count):
            begin = 16 + n * gib * 2**30
            shape = [gib * 2**14, 2**14]
            header[f"{n}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + gib * 2**30]}
        text = json.dumps(header).encode()
        path = tmp_path / f"{gib}.safetensors"
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + np.eye(2, dtype=np.float32).tobytes())
            file.truncate(8 + len(text) + 16 + count * gib * 2**30)
        if gib > 8:
            with pytest.raises(ModelFileError, match="more than the limit of 8589934592"):
                specnorm.audit(path, layers="layer.weight")
        else:
            assert specnorm.audit(path, layers="layer.weight").layers[0].upper == pytest.approx(1)
