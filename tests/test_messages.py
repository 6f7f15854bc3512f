"""Mistakes that users make, each with what its message says."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from specnorm_audit.cli import run

import specnorm
from specnorm import methods
from specnorm.errors import SpecnormError

K = np.ones((2, 2, 3, 3))

CALLS = {
    "enclose(K.astype(object))": "Convert it first",
    "enclose(K[0, 0, 0])": "has 1 axis.",
    "enclose(K[0], padding=(1, 2))": "one (before, after) pair per axis, such as padding=[(1, 2)]",
    "enclose(K[0], stride=(2, 2))": "has 2 entries; an array of shape (2, 3, 3) is a kernel with 1 spatial axis, (cout",
    "track(K, SymbolNorm(), 3)": "give the dict that init_tracking returned",
    "track(K, SymbolNorm(), {'left': 3})": "the state holds {'left': ()}",
    "track_many(3, SymbolNorm(), [])": "kernels is of type int: give a list",
    "track_many([K], SymbolNorm(), [{}], geometries=0)": "geometries is of type int: give a list",
    "track_many([K], SymbolNorm(), [{}], geometries=[3])": "a layer's geometry is 3: give a dict",
    "track_many([K], SymbolNorm(), [])": "1 kernel, 0 states and 1 geometry: give as many of each",
    "slogdet(np.ones((2, 1, 3)), 4)": "1 channel to 2",
    "rescale(1j * K)": "Give the real kernel [[Re, -Im], [Im, Re]]",
    "enclose(K, rtol='1e-3')": "is a str, no number",
    "enclose(K, rtol=2)": "is not between 0 and 1",
    "enclose(K, budget=-1)": "is not a time limit",
    "enclose(K, (2, 32, 32))": "give spatial sizes alone, input_shape=(32, 32)",
    "enclose(K, (1, 2, 32, 32))": "give spatial sizes alone, input_shape=(32, 32)",
    "gram_bound(K, n_iter='3')": "give an integer of at least 1",
    "operator_norm(K)": "is no matrix. If it is the kernel of a convolution, use specnorm.enclose(kernel)",
    "operator_norm('K')": "expected a matrix, an operator, or a function with its adjoint",
    "1 / enclose(K) ** 2": "use its .upper or its .lower",
    "tn_bound(K, proven='no')": "proven='no' is not True or False",
    "measure(K, Grid()) <= 1": "comparison of Result, whose number is its .value",
    "float(measure(K, Grid()))": "float() of Result, whose number is its .value",
    "certify(K, measure(K, Grid()))": "bound is Result, whose number is its .value",
    "enclose(K) or K": "bool() of Enclosure, which is two numbers: use its .upper",
    "certify(K, '7.4')": "bound must be a number",
    "certify(K, float('nan'))": "is not a norm",
    "certify(K, -1)": "is not a norm",
    "enclose(K, shape=32)": "enclose has no keyword 'shape'; did you mean input_shape?",
    "enclose(K, kernel_size=3)": "says it; leave it out",
    "gram_bound(K, iterations=3)": "did you mean n_iter?",
    "rescale(K, max_norm=1.0)": "did you mean bound?",
    "tn_bound(K, gruops=2)": "did you mean groups?",
    "tn_bound(K, colour='red')": "tn_bound has no keyword 'colour'. It takes dilation",
    "grid_bound(K, 32)": "grid_bound takes only kernel by position",
    "gram_rescaling(K, 3)": "gram_rescaling takes only kernel by position",
    "compare(K, Grid())": "compare takes no method",
    "measure(K, Grid)": "the class Grid, is not a method",
    "measure(K, 'tn')": "method='tn' is not a method. Give a value such as specnorm.methods.TensorNorm()",
    "value_and_grad(K, None)": "method=None is not a method. Give a value such as specnorm.methods.TensorNorm()",
    "singular_values(np.ones((64, 64, 3, 3)), 3000)": "576000000 singular values, some 34.3 GiB of memory",
    "singular_values(K, 8, max_bytes=1000)": "max_bytes=",
    "singular_values(K, 8, max_bytes='1 GB')": "max_bytes='1 GB' is not a count",
    "audit({'a': K}, methods='tn')": "methods=['tn']",
    "audit({'a': K}, methods=3)": "methods=3 is no sequence of names: give some of tn,",
    "audit({'a': K}, backend=['numpy'])": "backend=['numpy'] is no name of a library with a plugin",
    "audit({'a': K}, input_shape=np.ones(2))": "is not a positive integer, or one per spatial axis",
    "audit({'a': K}, input_shape={'x': 3})": "input_shape of 'x' is 3: give a whole shape",
    "certify(K, True)": "bound must be a number, got bool True",
    "rescale(K, only_shrink='no')": "only_shrink='no' is not True or False",
    "rescale(K, True)": "bound must be a number, got bool True",
    "rescale(K.astype('f4'), 1e-60)": "is too small for a kernel in float32: entries of the scaled kernel would be 0",
    "rescale(K.astype('f2'), 1e9, only_shrink=False)": "is too large for a kernel in float16",
    "clip(K.astype('f2'), 1e-9)": "is too small for a kernel in float16",
    "clip(K, None)": "bound must be a number, got NoneType",
    "certify(K, enclose(K))": "bound is Enclosure, which is two numbers: use its .upper or its .lower",
    "certify(K, 10**400)": "beyond 1.8e+308, the largest of float64",
    "certify(7.4, K)": "certify takes the kernel first: certify(kernel, 7.4)",
    "conv_norm(7.4, K)": "conv_norm takes the kernel first: conv_norm(kernel, 7.4)",
    "enclose(K, 10**20)": "input_shape=100000000000000000000 is above",
    "gram_bound(K, 10**9)": "no layer has so many pixels",
    "enclose(K, Grid())": "input_shape is a Grid, not an int",
    "clip(K, 1.0, n_iter=-1)": "is not a count",
    "clip(K, 1.0, n_iter=True)": "is not a count",
    "SymbolNorm(points=0)": "is not a count",
    "SymbolNorm(vectors=0)": "is not a count",
    "symbol_norm(K, input_shape=8)": "power_norm(kernel, input_shape)",
    "round(enclose(K), 2)": "format(enclosure, '.2f')",
    "complete(K, start=np.zeros((1, 8, 3, 3, 2)))": "start has the shape (1, 8, 3, 3, 2)",
    "completion_bound(K, rtol=2)": "rtol",
    "completion_bound(K, n_iter=-1)": "n_iter",
    "complete(np.full((2, 2, 3, 3), np.nan))": "non-finite",
    "isometry_bound(K, padding_mode='zeros')": "no layer is an isometry",
    "isometry_bound(K, scale=-1.0)": "scale",
    "Isometry(form='squares')": "form=",
    "is_isometry(K, 'small')": "tolerance",
    "is_isometry(K, -1)": "tolerance=-1 is not a tolerance",
    "enclose_smallest(K, padding_mode='zeros')": "Give input_shape",
    "enclose_smallest(K, 64, padding_mode='zeros')": "rows; at most",
    "enclose_smallest(K, rtol=2.0)": "rtol",
    "enclose_smallest(K).certificate()": "no certificate for a smallest singular value",
    "singular_values(K, 64, k=2, which='smallest', padding_mode='zeros')": "enclose_smallest",
    "singular_values(K, 8, which='least')": "which='least'",
    "singular_values(K, 8, which=K)": "is none of 'all', 'largest', 'smallest'",
    "enclose(K, layout=np.arange(4))": "layout=array([0, 1, 2, 3]) is not one of OI",
    "enclose(K, padding_mode=np.arange(2))": "padding_mode=array([0, 1]) is not one of",
    "enclose(K, padding=np.arange(2))": "padding is an array of shape (2,); expected an integer, or a tuple of them",
    "enclose(K, transposed=np.arange(2))": "transposed=array([0, 1]) is not True or False",
    "condition_number(K, rtol='x')": "rtol='x' is a str, no number",
    "condition_number(K, rtol=2)": "rtol=2 is not between 0 and 1",
    "condition_number(K, budget='x')": "budget='x' is not a time limit",
    "isometry_bound(K, scale=np.ones(2))": "scale is an array of shape (2,)",
    "lmo(K.astype(object))": "has dtype object; expected a real floating dtype",
    "logit_bound(None, A, heads=1)": "NoneType is not an array",
    "power_norm(A, seed=2**32)": "seed=4294967296 is above 4294967295",
    "power_norm(A, seed='x')": "seed='x' is not a count",
    "operator_norm(np.array([['a']]))": "ndarray is not transposed by its library",
    "operator_norm(A, seed='x')": "seed='x' seeds no generator",
    "operator_norm(A, rng=-1)": "rng=-1 seeds no generator",
    "operator_norm(A, A.T, (5, 3))": "takes two functions, matvec and rmatvec; got ndarray and ndarray",
    "slogdet(K, 4, stride=2)": "has no determinant",
    "slogdet(K, 4, padding_mode='zeros')": 'slogdet needs padding_mode="circular"; got "zeros"',
    "lmo(np.ones((2, 2, 3), 'f4'), bound=0.0)": "bound=",
    "lmo(np.ones((2, 2, 3), 'f4'), bound=1e39)": "bound=",
    "operator_norm(lambda v: v, lambda u: 2 * u, (3, 3))": "not the adjoint",
    "operator_norm(lambda v: v[:2], lambda u: u, (3, 3))": "shape (2,); expected (3,)",
    "operator_norm(lambda v: v, lambda u: u, (0, 3))": "positive whole numbers",
    "operator_norm(lambda v: v, lambda u: u)": "needs its adjoint and its shape",
    "operator_norm(lambda v: v + 1, lambda u: u, (3, 3))": "offset or a nonlinearity",
    "operator_norm(lambda v: v * 1j, lambda u: u, (3, 3))": "complex",
    "operator_norm(lambda v: A @ v, lambda u: A.T @ u, (3, 5))":
        "shape=(3, 5) is the wrong way round: matvec takes 3 numbers and returns 5. Give (5, 3)",
    "operator_norm(A, rtol=0)": "rtol=0 is not a number between 0 and 1: give a relative width",
    "operator_norm(A, rtol='tight')": "rtol='tight' is not a number between 0 and 1",
    "operator_norm(A, delta=0)": "delta=0 is not a number between 0 and 1: give a probability",
    "operator_norm(np.where(A == 7, np.nan, A))": "returned NaN or infinity in 1 of 5 numbers",
    "audit('nofile.npz')": "No such file",
    "audit(K)": "specnorm.enclose measures one kernel",
    "audit([{'a': K}])": "is not a model: give the path of its file, a mapping",
    "audit({})": "holds no layer",
    "audit({'bias': np.ones(3)})": "A layer is a real floating array",
    "audit({'a': K}, layers='b*')": "whose name matches 'b*'",
    "audit({'a': K}, geometry={'b': {'stride': 2}})": "'b'",
    "audit({'a': K}, device='gpu')": "gpu",
    "audit({'a': K}, backend='array-api')": "Name a library with a plugin",
    "audit({'a': K}, input_range=3)": "expected two numbers",
    "audit({'a': K}, input_range=(0, 'a'))": "expected two numbers",
    "audit({'a': K}, layers=len)": "is no shell pattern on names, such as 'encoder*'",
    "audit({'a': K}, ignore=[3])": "ignore=3 is no shell pattern",
    "audit({'a': K}, gate='7.4')": "gate must be a number, got str '7.4'",
    "audit({'a': K}, gate=-1)": "gate=-1 is not a finite number of at least 0",
    "audit({'a': K}, progress=True)": "progress=True is no function: give a function of the counts",
    "audit({'a': K}, max_bytes='8 GiB')": "max_bytes must be a number, got str '8 GiB'",
    "audit({'a': K}, executor=2)": "ProcessPoolExecutor(n)",
}  # fmt: skip
"""An expression -> a part of what is said; `core/test_errors` has geometry that is none."""

FILES = {
    "a.npz": "honest", "empty.npz": "", "text.txt": "hello", "none.index.json": "{}",
    "bare.index.json": '{"weight_map": {}}', "pickle.pkl": b"\x80\x04}.", "cut.npz": "cut",
    "one.npy": "npy", "m.tflite": b"\x1c\0\0\0TFL3" + bytes(64), "saved_model.pb": b"\x08\x01\x12\x0a",
    "objects.npz": "objects", "page.onnx": "<html>", "other.zip": b"PK\5\6" + bytes(18),
}  # fmt: skip
COMMANDS = {
    "adit a.npz": "No such command 'adit'. Did you mean 'audit'?", "gate a.npz": "specnorm audit MODEL --fail-above L",
    "audit m.tflite": "ONNX file (tf2onnx)", "audit saved_model.pb": "it is a SavedModel", "audit": "MODEL",
    "audit nofile.safetensors": "No such file", "audit folder": "without safetensors. Name the model's file",
    "audit empty.npz": "it is empty", "audit text.txt": "its content is of no known kind",
    "audit page.onnx": "it is a web page, not a model", "audit none.index.json": "it has no such entry",
    "audit bare.index.json": "it names no files", "audit pickle.pkl": "pickles can run code",
    "audit cut.npz": "damaged or cut short", "audit one.npy": "one array without a name",
    "audit other.zip": "zip archive of no known kind", "audit objects.npz": "Save the kernel as a float32 array",
    "audit a.npz --rtol abc": "'abc' is not a number between 0 and 1",
    "audit a.npz --rtol 2": "'2' is not a number between 0 and 1",
    "audit a.npz --rtol 1_0e-2": "is not a number between 0 and 1",
    "audit a.npz --input-shape ٣": "such as 32 or 32x48",
    "audit a.npz --max-bytes 100": "more than the limit of 100. Raise the limit (--max-bytes)",
    "audit a.npz --output no/such/folder/report": "is not a folder",
    "audit a.npz --budget soon": "is not a time: give seconds above 0, such as 10, 10s or inf",
    "audit a.npz --fail-above 1_0": "is not a finite number of at least 0",
    "audit a.npz --output a.pdf": "which say the format",
    "audit a.npz --methods foo": "--methods 'foo' is no column: give some of tn,",
    "audit a.npz --format foo": "is not one of 'table', 'json'", "audit a.npz --input-shape 0": "such as 32 or 32x48",
    "audit a.npz --input-shape 3x": "a number is missing in '3x': give sizes such as 32 or 32x48",
    "audit a.npz --input-shape 3x3x3": "has 3 sizes, and the model's convolutions have 2 spatial axes",
    "audit a.npz --layers zz": "whose name matches 'zz'",
    "audit a.npz --layers eigh": "Layers are weight. A pattern matches the whole name: give '*eigh*'.",
    "audit a.npz --layers zz --fail-above 1": "no layer was measured",
    "audit a.npz --input-shape abc": "'abc' is not a size, such as 32", "audit a.npz --input-range 0 1": "no graph",
    "audit a.npz --geometry one.npy": "this is not JSON",
    "audit a.npz --geometry stride=2": "'stride=2' is no JSON in braces, nor a file with it: No such file",
    "audit a.npz --max-bytes 1k": "'1k' is not a number of bytes, such as 1e9",
    "audit a.npz --certificate": "requires an argument",
    "audit a.npz --certificate proof": "proof does not end in .npz: give such a name",
    "audit a.npz one.npy --certificate proof.npz": "2 models are given; it is for one: audit each by itself",
    "verify a.npz": "MODEL",
    "verify nofile.npz a.npz": "nofile.npz",
}  # fmt: skip
"""What follows ``specnorm`` -> a part of what it says."""


def said_of(expression: str) -> str:
    names: dict[str, Any] = {name: getattr(specnorm, name) for name in specnorm.__all__}
    names |= {name: getattr(methods, name) for name in dir(methods)}
    names |= {"K": K, "A": np.arange(15.0).reshape(5, 3), "np": np}
    try:
        eval(expression, names)
    except (SpecnormError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{expression} says nothing")


def write(folder: Path) -> None:
    (folder / "folder").mkdir()
    for name, content in FILES.items():
        path = folder / name
        if content == "npy":
            np.save(path, K)
        elif content in ("honest", "cut"):
            np.savez(path, weight=K)
            path.write_bytes(path.read_bytes()[: None if content == "honest" else 200])
        elif content == "objects":
            np.savez(path, weight=np.array([[1, "a"], [None, 2]], dtype=object))
        else:
            path.write_bytes(content if isinstance(content, bytes) else str(content).encode())


def told(command: str, folder: Path) -> tuple[int, str]:
    """Exit code and output of the command, run in this process: one each would take a minute."""
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(stream):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["specnorm", *command.split()])
        code = run()
    return code, stream.getvalue()


def check_counts(message: str) -> None:
    """One of a kind is no plural, and no word that is quoted is empty."""
    plural = re.search(rf"\b1 (spatial )?({'|'.join(PLURALS)})\b", message)
    assert plural is None, plural
    assert "''" not in message


PLURALS = (
    "axes", "arrays", "cells", "channels", "claims", "entries", "groups", "inputs", "kernels", "labels", "layers",
    "matrices", "outputs", "parts", "sizes", "states", "values",
)  # fmt: skip


@pytest.mark.parametrize("message", ["has 1 axes.", "with 1 spatial axes,", "'' is not a size"])
def test_counts_that_read_wrongly_are_noticed(message: str) -> None:
    with pytest.raises(AssertionError):
        check_counts(message)


@pytest.mark.parametrize("expression", CALLS)
def test_calls(expression: str) -> None:
    message = said_of(expression)
    assert CALLS[expression] in message
    check_counts(message)
    assert "ConvSpec" not in message


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, tmp_path: Path) -> None:
    pytest.importorskip("click", reason="the command line: pip install '.[cli]'")
    write(tmp_path)
    code, output = told(command, tmp_path)
    assert COMMANDS[command] in " ".join(output.split())
    assert code == 2
    assert "Traceback" not in output
    check_counts(output)
