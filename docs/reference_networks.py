"""Check bounds of networks against reference-networks.json. Needs NumPy and onnx, and no specnorm.

python reference_networks.py                             # the published numbers themselves
python reference_networks.py package.module:function     # yours: function(path of the ONNX file) -> upper bound
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).parent


def evaluator(path):
    """The network in float64, which onnxruntime has no convolution for."""
    session = ReferenceEvaluator(str(path))
    return lambda x: session.run(None, {"x": x[None]})[0].ravel()


def check(case, bound=None):
    """What is wrong with a case, or with a bound of it; and how many times the published upper bound is."""
    f, shape = evaluator(HERE / case["file"]), case["input_shape"]
    x, y = (np.asarray(end).reshape(shape) for end in case["pair"])
    ratio = np.linalg.norm(f(x) - f(y)) / np.linalg.norm(x - y)
    wrong = [] if case["lower"] <= ratio <= case["upper"] else [f"the pair reaches {ratio!r}"]
    upper = case["upper"] if bound is None else float(bound(str(HERE / case["file"])))
    if not upper >= case["lower"]:
        wrong.append(f"{upper!r} is not an upper bound: two inputs reach {case['lower']!r}")
    steps = 2.0**-20 * np.eye(x.size).reshape(-1, *shape)
    for at in np.random.default_rng(0).standard_normal((20, *shape)):  # the Jacobian of the piece around a point
        norm = np.linalg.norm([(f(at + d) - f(at)) * 2**20 for d in steps], 2)
        if norm > upper * (1 + 1e-6):
            wrong.append(f"{upper!r} is not an upper bound: a Jacobian has norm {norm!r}")
    return wrong, upper / case["upper"]


if __name__ == "__main__":
    module, _, name = (sys.argv[1] if len(sys.argv) > 1 else "").partition(":")
    sys.path.insert(0, "")
    function = getattr(importlib.import_module(module), name) if module else None
    failed = 0
    for case in json.loads((HERE / "reference-networks.json").read_text(encoding="utf-8"))["networks"]:
        wrong, ratio = check(case, function)
        failed += bool(wrong)
        print(f"{case['name']}: {'; '.join(wrong) or f'valid, {ratio:.4f} times the published upper bound'}")
    sys.exit(failed > 0)
