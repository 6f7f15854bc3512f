"""Whatever H a certificate brings, specnorm_check proves no number below the norm; it refuses damage by its name."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_check
from helpers.cases import Layer, layers
from helpers.oracle import dense_norm, padding_pairs, per_axis, sigma_star
from hypothesis import given
from hypothesis import strategies as st
from specnorm_check import Claim, Refused
from specnorm_check.arithmetic import exact_products

FOLDER = Path(specnorm_check.__file__).parent
Random = np.random.RandomState


def statement_of(kernel: np.ndarray, geometry: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A claim about a kernel in torch's order, by the oracle's reading of its geometry."""
    given, d = geometry or {}, kernel.ndim - 2
    strides, dilations = (list(per_axis(given.get(word, 1), d)) for word in ("stride", "dilation"))
    pads = padding_pairs(given.get("padding", "same"), kernel.shape[2:], dilations)
    mode, transposed = given.get("padding_mode", "circular"), given.get("transposed", False)
    return {
        "name": "layer", "tensor": "k", "dtype": kernel.dtype.name, "shape": list(kernel.shape), "layout": "OI",
        "sha256": specnorm_check.digest(kernel), "stride": strides, "dilation": dilations,
        "groups": given.get("groups", 1), "transposed": transposed, "padding_mode": mode,
        "padding": [list(pair) for pair in pads], "sizes": "every", "upper": "0x0.0p+0",
        "completion": "H0", "exponent": 0, **more,
    }  # fmt: skip


def kernels_of(kernel: Any, told: dict[str, Any]) -> Any:
    return specnorm_check.stride_one_kernels(*specnorm_check.read_layer(kernel.astype(np.float64), told))


def bound(kernel: Any, told: dict[str, Any], h: Any) -> Fraction:
    found: Fraction = specnorm_check.proven_norm(*specnorm_check.read_layer(kernel, told), h, told["exponent"])
    return found


def exponent_for(kernel: np.ndarray, bits: int) -> int:
    largest = float(np.max(np.abs(kernel.astype(np.float64))))
    return bits - 1 - int(np.frexp(largest)[1]) if largest else 0


HOSTILE: dict[str, Callable[[Random, Any], Any]] = {
    "none": lambda _, shape: np.zeros((shape[0], 0, *shape[2:]), np.int16),
    "zeros": lambda _, shape: np.zeros(shape, np.int16),
    "largest": lambda _, shape: np.full(shape, 2**19, np.int32),
    "smallest": lambda _, shape: np.full(shape, -(2**19), np.int32),
    "ones": lambda _, shape: np.ones(shape, np.int16),
    "random": lambda draw, shape: draw.randint(-(2**15), 2**15, shape).astype(np.int16),
    "normal": lambda draw, shape: np.clip(draw.standard_normal(shape) * 2**13, -(2**15), 2**15 - 1).astype(np.int16),
    "one entry": lambda _, shape: np.where(np.arange(np.prod(shape)).reshape(shape) == 0, 2**14, 0).astype(np.int32),
}


def proven(layer: Layer, h: Any, bits: int, at_size: bool = False) -> Fraction:
    """What a checker says that an H proves, at every size or at the layer's."""
    kernel = layer.kernel
    told = statement_of(kernel, layer.geometry, exponent=exponent_for(kernel, bits))
    if at_size:
        told["sizes"] = list(layer.input_shape)
    groups, _, *columns = kernels_of(kernel, told).shape
    rows = 1 + layer.recipe.seed % 4
    return bound(kernel, told, h(Random(layer.recipe.seed), (groups, rows, *columns)))


@pytest.mark.parametrize("name", HOSTILE)
@given(layer=layers(around=True), bits=st.integers(2, 20), at_size=st.booleans())
def test_no_completion_proves_less_than_the_norm(name: str, layer: Layer, bits: int, at_size: bool) -> None:
    """Of the dense matrix of the layer at one of its sizes, written by loops; proven at that size, or at every one."""
    truth = dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
    assert proven(layer, HOSTILE[name], bits, at_size) >= Fraction(truth.lo)


@given(layer=layers(modes=("zeros",)))
def test_no_completion_proves_less_than_the_supremum_over_all_sizes(layer: Layer) -> None:
    words = {key: layer.geometry[key] for key in ("stride", "dilation", "groups", "transposed")}
    truth = sigma_star(layer.kernel, max_cells=2000, **words)
    for h in HOSTILE.values():
        assert proven(layer, h, 20) >= Fraction(truth.lo)


def test_the_bound_is_close_where_the_identity_holds() -> None:
    """K*K + H*H = 4 for K = [1, 1] and H = [1, -1]; a matrix K beside the root of 2 - K*K."""
    pair = np.array([[[1.0, 1.0]]])
    assert 2 <= bound(pair, statement_of(pair), np.array([[[[1, -1]]]], np.int16)) <= 2 + 2**-40
    zero = np.zeros((2, 3, 4))
    assert bound(zero, statement_of(zero), np.zeros((1, 0, 2, 4), np.int16)) == 0
    q, _ = np.linalg.qr(Random(0).standard_normal((6, 6)))
    kernel = q[:4]  # its rows and the others make up an isometry
    told = statement_of(kernel, exponent=17)
    got = bound(kernel, told, np.zeros((1, 0, 4), np.int16))
    assert 1 <= got < 1 + 1e-3


def test_long_sums_are_exact() -> None:
    """4,096 rows of 20 bits: their products add up to more than 2**53, odd ones among them."""
    rows, entry = 4096, 2**19 - 1
    kernel = np.full((rows, 1), float(entry))
    got = bound(kernel, statement_of(kernel), np.zeros((1, 0, 1), np.int32))
    assert rows * entry**2 > 2**49
    assert rows * entry**2 <= got**2 <= rows * entry**2 * (1 + Fraction(1, 2**70))
    with pytest.raises(Refused, match=r"may reach 2\^62"):
        exact_products(*[np.broadcast_to(np.array(2.0**19), (1, 1, 2**26))] * 2)


def test_a_thread_without_subnormal_numbers_proves_nothing(torch: Any) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot take subnormal numbers for zero")
    try:
        assert "subnormal numbers are taken for zero" in reason()
    finally:
        torch.set_flush_denormal(False)


# -- what the checker's own mistakes change (``planted.toml``) ---------------------------------------------------------
TIGHT: list[tuple[Any, dict[str, Any], int, Any]] = [
    ([[[1.0, 1.0]]], {}, 0, 8),
    ([[[1.0, 0.0, 1.0]]], {}, 0, 8),
    ([[[0.3]]], {}, 0, 4),
    ([[[1.0, 1.0]], [[3.0, 3.0]]], {"groups": 2}, 0, 8),
    ([[[1.0]]], {"padding_mode": "reflect", "padding": 1}, 0, 3),
    ([[[1.0]]], {"padding_mode": "symmetric", "padding": 1}, 0, 1),
    ([[[1.0, 1.0]]], {"padding_mode": "symmetric", "padding": 1}, 0, 3),
    ([[[1.0, 0.0]]], {"padding_mode": "replicate", "padding": 2}, 0, 3),
    ([[[1.0, 2.0, 3.0, 4.0]]], {"stride": 2, "padding_mode": "zeros"}, 0, 8),
    ([[[1.0, 3.0, 2.0, 4.0]]], {"stride": 2}, 0, 16),
    ([[0.25, 0.25], [0.25, 0.25]], {}, 2, ()),
    ([[[1.0]]], {"padding": 2}, 0, 3),
    ([[1.0, 2.0], [3.0, 4.0]], {}, 2, ()),
    ([[1.0, 1.0], [1.0, 1.0]], {}, 2, ()),
    ([[[1.0, 1.0]]], {}, 0, 1),
    ([[[0.3]]], {"padding_mode": "replicate", "padding": 3}, 0, 1),
    ([[[1.0, 1.0, 1.0]]], {"dilation": 2, "stride": 2, "padding_mode": "zeros", "padding": 1}, 0, 4),
    ([[[1.0, 1.0, 1.0]]], {"padding_mode": "reflect", "padding": 1}, 0, 2),
]
"""Kernel, geometry, exponent and size of layers whose norm is what no H at all proves, or close to it."""


def false_of() -> Iterator[int]:
    """Of which layers of `TIGHT` the checker proves less than the norm, or refuses to read them."""
    for at, (values, geometry, exponent, size) in enumerate(TIGHT):
        kernel = np.array(values)
        told = statement_of(kernel, geometry, exponent=exponent)
        at_size = {**told, "sizes": list(per_axis(size, kernel.ndim - 2))}
        truth = Fraction(dense_norm(kernel, size, **geometry).lo)
        try:
            for one in (told, at_size):
                groups, _, *columns = kernels_of(kernel, one).shape
                if bound(kernel, one, np.zeros((groups, 0, *columns), np.int16)) < truth:
                    yield at
        except Refused:
            yield at


def test_every_proven_bound_is_at_least_the_norm() -> None:
    assert next(false_of(), None) is None


def test_the_checker_imports_no_other_package_of_ours() -> None:
    imported = {path.stem: modules_imported(path) for path in FOLDER.glob("*.py")}
    packages = {name.partition(".")[0] for names in imported.values() for name in names}
    assert packages == {"numpy", "onnx", "safetensors", "specnorm_check"}
    # A layer's bound needs two of the files, and NumPy alone.
    assert imported["arithmetic"] | imported["layers"] == {"numpy", "numpy.typing", "specnorm_check.arithmetic"}
    lazy = 'import sys, specnorm_check; assert not {"onnx", "safetensors"} & {*sys.modules}'
    subprocess.run([sys.executable, "-c", lazy], check=True)


def modules_imported(path: Path) -> set[str]:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module))
    return {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}


# -- claims that are not proven ------------------------------------------------------------------------------------
KERNEL = np.array([[[1.0, 1.0]]])
RIGHT = statement_of(KERNEL, upper=(2.0 + 2.0**-40).hex())
H = np.array([[[[1, -1]]]], np.int16)


def reason(statement: dict[str, Any] | None = None, h: Any = H, arrays: Any = None, **more: Any) -> str:
    """Why a claim is refused; empty: it is proven."""
    claim = Claim({**(RIGHT if statement is None else statement), **more}, h)
    (verdict,) = specnorm_check.check([claim], {"k": KERNEL} if arrays is None else arrays)
    assert ("FAILED" in str(verdict)) == bool(verdict.reason) == (not verdict)
    return verdict.reason


def test_a_claim_is_proven_and_says_what_it_is() -> None:
    (verdict,) = specnorm_check.check([Claim(RIGHT, H)], {"k": KERNEL})
    assert str(verdict).startswith("proven: norm <= 2.0000000000009")
    assert str(verdict).endswith(" s [called 'layer' by the certificate]")
    for words in (
        "at every input size",
        "of 'k'",
        "dtype float64",
        "shape [1, 1, 2]",
        f"sha256 {RIGHT['sha256']}",
        "by 1 rows",
    ):
        assert words in str(verdict)
    assert "divides" not in str(verdict)
    strided = statement_of(KERNEL, {"stride": 2}, upper=(2.0).hex())
    (verdict,) = specnorm_check.check([Claim(strided, np.zeros((1, 0, 1, 1), np.int16))], {"k": KERNEL})
    assert "at every input size that the stride divides" in str(verdict)
    (verdict,) = specnorm_check.check(
        [Claim(strided | {"transposed": True}, np.zeros((1, 0, 1, 1), np.int16))], {"k": KERNEL}
    )
    assert "at every input size, of 'k'" in str(verdict), verdict


@pytest.mark.parametrize(
    "name", ["conv1.weight: norm \u2264 0.5 (0x1.0p-1) at every input size" + "\u3164" * 2000, "\n", 9]
)
def test_a_name_hides_nothing_of_what_is_proven(name: Any) -> None:
    """The claimant chooses it: a line of a norm of 2 read "proven conv1.weight: norm \u2264 0.5" and nothing else."""
    (plain_one,) = specnorm_check.check([Claim(RIGHT, H)], {"k": KERNEL})
    (verdict,) = specnorm_check.check([Claim({**RIGHT, "name": name}, H)], {"k": KERNEL})
    line = str(verdict)
    assert line.startswith(f"proven: {plain_one.statement}; ")
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 600
    failed = Claim({**RIGHT, "name": name, "upper": "0x1.0p-1"}, H)
    (verdict,) = specnorm_check.check([failed], {"k": KERNEL})
    assert str(verdict).startswith("FAILED: it claims 0.5")


def test_an_array_is_named_in_full_or_its_claim_refused() -> None:
    """Its name stands before the geometry; RIGHT names it k."""
    name = "layer\u202e." * 50
    (verdict,) = specnorm_check.check([Claim({**RIGHT, "tensor": name}, H)], {name: KERNEL})
    assert f"of '{name.replace(chr(0x202E), '?')}', dilation [1]" in str(verdict)
    assert "too long" in reason(tensor=2 * name, arrays={2 * name: KERNEL})


@pytest.mark.parametrize("rows", [28, *range(2, 60, 7)])
def test_the_decimal_that_is_printed_is_not_below_the_claim(rows: int) -> None:
    """The root of 28 was printed as 5.291502622129181, whose square is below 28."""
    ones = np.ones((rows, 1))
    h = np.zeros((1, 0, 1), np.int16)
    told = statement_of(ones, exponent=18)
    told["upper"] = specnorm_check.float_up(bound(ones, told, h)).hex()
    (verdict,) = specnorm_check.check([Claim(told, h)], {"k": ones})
    found = re.match(r"proven: norm <= (\S+) \((\S+)\)", str(verdict))
    assert found is not None
    assert Fraction(found[1]) >= Fraction(float.fromhex(found[2]))
    assert Fraction(found[1]) ** 2 >= rows
    assert found[2] == told["upper"]


REFUSALS: dict[str, tuple[Callable[[], str], str]] = {
    "a lower number": (lambda: reason(upper=2.0.hex()), "its H proves no less than 2.0000"),
    "another H": (lambda: reason(h=2 * H), "its H proves no less than"),
    "nan claimed": (lambda: reason(upper="nan"), "no hexadecimal float"),
    "infinity claimed": (lambda: reason(upper="0x1.0p+9999"), "not a finite one"),
    "another bit": (lambda: reason(arrays={"k": KERNEL * (1 + 2**-52)}), "digest differs"),
    "another shape": (lambda: reason(arrays={"k": KERNEL[0]}), "the model's array is float64"),
    "another dtype": (lambda: reason(arrays={"k": KERNEL.astype(np.float32)}), "the model's array is float32"),
    "no array": (lambda: reason(arrays={}), "has no array k"),
    "complex": (lambda: reason(dtype="complex128", arrays={"k": KERNEL.astype(complex)}), "is complex128"),
    "an entry of H above 2^19": (lambda: reason(h=H.astype(np.int32) * 2**20), "an entry above"),
    "H of floats": (lambda: reason(h=H.astype(float)), "not int16 or int32"),
    "a truth value as exponent": (lambda: reason(exponent=True), "exponent"),
    "sizes in words": (lambda: reason(sizes="divided"), "whole numbers"),
    "H of another byte order": (lambda: reason(h=H.astype(">i2")), "H is >i2"),
    "a size for two axes": (lambda: reason(sizes=[8, 8]), "whole numbers"),
    "H of the kernel at a size": (lambda: reason(sizes=[8]), "any number of rows"),
    "transposed and reflected": (lambda: reason(transposed=True, padding_mode="reflect"), "transposed"),
    "negative padding": (lambda: reason(padding=[[-1, 0]]), "whole numbers"),
    "a list as name": (lambda: reason(tensor=["k"]), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_false_claim_is_refused_by_name(name: str) -> None:
    said, words = REFUSALS[name]
    assert re.search(words, said()), said()


# -- damaged files -------------------------------------------------------------------------------------------------
def write(path: Path, *, claims: Any = None, text: str | None = None, **arrays: Any) -> Path:
    said = [RIGHT] if claims is None else claims
    text = json.dumps({"specnorm_certificate": 5, "claims": said}) if text is None else text
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, claims=np.frombuffer(text.encode(), np.uint8), **({"H0": H} | arrays))
    return path


def _header(count: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i2", "fortran_order": False, "shape": (count,)})
    return header.getvalue()


def _promises(path: Path) -> Path:
    """An array that says to be larger than the file."""
    with zipfile.ZipFile(write(path), "a") as archive:
        archive.writestr("H1.npy", _header(2**39))
    return path


def _repeated(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(write(path), "a") as archive:
        archive.writestr("H0.npy", zipfile.ZipFile(path).read("H0.npy"))
    return path


def _stranger(path: Path) -> Path:
    with zipfile.ZipFile(write(path), "a") as archive:
        archive.writestr("run.py", "print('no')")
    return path


def _cut(path: Path) -> Path:
    content = write(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _flipped(path: Path) -> Path:
    content = bytearray(write(path).read_bytes())
    content[content.index(H.tobytes())] ^= 1
    path.write_bytes(content)
    return path


WHOLE = json.dumps({"specnorm_certificate": 5, "claims": [RIGHT]})
DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "objects": (lambda path: write(path, H0=np.array([{}], object)), "Object arrays cannot be loaded"),
    "a name twice": (_repeated, "repeated"),
    "what is not an array": (_stranger, "run.py"),
    "one H for two": (lambda path: write(path, claims=[RIGHT, RIGHT]), "an earlier claim has taken it"),
    "half a file": (_cut, "cannot be read"),
    "a bit of H": (_flipped, "CRC"),
    "an entry twice": (
        lambda path: write(path, text=WHOLE.replace('"groups": 1', '"groups": 1, "groups": 1')),
        "repeated",
    ),
    "a fraction": (lambda path: write(path, text=WHOLE.replace('"groups": 1', '"groups": 1.5')), "not a whole number"),
    "nan": (lambda path: write(path, text=WHOLE.replace('"groups": 1', '"groups": NaN')), "not a whole number"),
    "deep lists": (lambda path: write(path, text="[" * 10**5), "cannot be read"),
    "no text": (lambda path: write(path, text="\udcff".encode("utf-8", "replace").decode()), "cannot be read"),
    "more than it holds": (_promises, "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, words = DAMAGED[name]
    with pytest.raises(Refused, match=words):
        specnorm_check.read_certificate(make(tmp_path / "c.npz"))


# -- the program ---------------------------------------------------------------------------------------------------
def run(folder: Path, *words: Any) -> tuple[int, str]:
    """Exit code and output of the checker that lies in a folder, where nothing of ours is found."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "specnorm_check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def test_a_copy_of_the_folder_checks_a_model(tmp_path: Path) -> None:
    copied = tmp_path / "somewhere"
    shutil.copytree(FOLDER, copied / "specnorm_check")
    np.savez(tmp_path / "model.npz", k=KERNEL, names=np.array(["a"]), rows=np.arange(3))
    certificate = write(tmp_path / "c.npz")
    code, said = run(copied, certificate, tmp_path / "model.npz")
    assert (code, "1 of 1 claim is proven." in said) == (0, True), said
    code, said = run(copied, write(certificate, claims=[{**RIGHT, "upper": (2.0).hex()}]), tmp_path / "model.npz")
    assert (code, "FAILED: it claims 2" in said, "'layer'" in said) == (1, True, True), said
    code, said = run(copied, certificate, tmp_path / "none.npz")
    assert (code, "specnorm_check: none.npz: there is no such file" in said) == (2, True), said


def test_models_are_read_as_stored(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors files: pip install safetensors")
    from safetensors.numpy import save_file

    arrays = {name: np.arange(6, dtype=name).reshape(2, 3) for name in ("float16", "float32", "float64")}
    save_file(arrays | {"whole": np.arange(3)}, tmp_path / "m.safetensors")
    more: dict[str, Any] = {**arrays, "whole": np.arange(3), "objects": np.array([None])}
    np.savez(tmp_path / "m.npz", **more)
    for name in ("m.npz", "m.safetensors"):
        got = specnorm_check.read_model(tmp_path / name)
        for key, array in arrays.items():
            assert (got[key].dtype, got[key].tolist()) == (array.dtype, array.tolist())
    half = json.dumps({"b": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    content = len(half).to_bytes(8, "little") + half + np.array([0x3FC0, 0xC000], "<u2").tobytes()
    (tmp_path / "b.safetensors").write_bytes(content)
    (got_half,) = specnorm_check.read_model(tmp_path / "b.safetensors").values()
    assert (got_half.dtype.name, got_half.tolist()) == ("float32", [1.5, -2.0])
    with pytest.raises(Refused, match=r"expected a model in \.npz, \.safetensors, \.onnx"):
        specnorm_check.read_model(tmp_path / "m.pt")


def test_a_damaged_claim_changes_nothing_else() -> None:
    broken = deepcopy(RIGHT) | {"padding": [["a", 0]]}
    first, second = specnorm_check.check([Claim(broken, H), Claim(RIGHT, H)], {"k": KERNEL})
    assert (bool(first.reason), second.reason) == (True, "")
