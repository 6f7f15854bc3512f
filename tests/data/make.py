"""Take published weight files into this folder, unchanged: ``python make.py SOURCE_FOLDER``.

SOURCE_FOLDER holds one folder a model with the published file, its LICENSE and layers.json, as `README.md` lists them.
Into the copy of layers.json comes, of every kernel, where its bytes lie in the file and how its axes are ordered there,
so that `tests/real_weights.py` can read it with NumPy alone. Beside it goes geometry.json, for formats that state
none.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Published:
    """A weight file as it was published."""

    file: str
    origin: str
    licence: str
    sha256: str


STATES_GEOMETRY = (".onnx", ".hdf5")
FILES = {
    "resnet20": Published(
        "resnet20-12fca82f.th",
        "github:akamaster/pytorch_resnet_cifar10@d5489e8995e8:pretrained_models/resnet20-12fca82f.th",
        "BSD-2-Clause",
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    ),
    "dncnn25": Published(
        "dncnn_25.pth",
        "github:cszn/KAIR@fc1732f4a451:model_zoo/dncnn_25.pth",
        "MIT",
        "0451a70de9b672ae037270498fbb1c17a1c1c4403785df586ff65df5b858e5b0",
    ),
    "espnet": Published(
        "espnet_p_2_q_3.pth",
        "github:sacmehta/ESPNet@afe71c38edae:pretrained/decoder/espnet_p_2_q_3.pth",
        "MIT",
        "8f3eb198fb15e5da7fa8d258d5f0fc4a4213e1124f415f6fc54d2772d585a7fc",
    ),
    "meshnet3d": Published(
        "model.pth",
        "github:neuroneural/brainchop@4c87885f3a2a:py2tfjs/conversion_example/model.pth",
        "MIT",
        "3521ca0c0db89060aa86aa7e043dc863f92fab59aff2779795dc8d8b3d3e75d2",
    ),
    "rfb320": Published(
        "version-RFB-320_simplified.onnx",
        "github:Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB@dffdddda9794:models/onnx/version-RFB-320_simplified.onnx",
        "MIT",
        "faf6740b495e8b9508e6fda11e8c0368bbdde01143e8f0a3e511d0892c4d794e",
    ),
    "mini_xception": Published(
        "fer2013_mini_XCEPTION.102-0.66.hdf5",
        "github:oarriaga/face_classification@b861d21b0e76:trained_models/emotion_models/"
        "fer2013_mini_XCEPTION.102-0.66.hdf5",
        "MIT",
        "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
    ),
    "silero_vad": Published(
        "silero_vad_16k.safetensors",
        "pypi:silero_vad-6.2.3-py3-none-any.whl:silero_vad/data/silero_vad_16k.safetensors",
        "MIT",
        "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1",
    ),
}


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a checkpoint by name, as stored; no code in it is executed."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return dict(load_file(path))
    if path.suffix == ".onnx":
        import onnx

        return {x.name: onnx.numpy_helper.to_array(x) for x in onnx.load(str(path)).graph.initializer}
    if path.suffix == ".hdf5":
        import h5py

        found: dict[str, NDArray[Any]] = {}
        with h5py.File(path) as file:
            file["model_weights"].visititems(
                lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        return found
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    state = loaded.get("state_dict", loaded)
    return {name: x.numpy() for name, x in state.items() if isinstance(x, torch.Tensor)}


def axes_of(layer: dict[str, Any]) -> list[int]:
    """Which stored axis is each axis of the kernel in torch order.

    Keras stores (h, w, in, out), and depthwise kernels (h, w, in, 1), which are torch's (in, 1, h, w).
    """
    if "stored_shape" not in layer:
        return list(range(len(layer["shape"])))
    return [2, 3, 0, 1] if layer["groups"] > 1 else [3, 2, 0, 1]


def place(layer: dict[str, Any], stored: NDArray[Any], content: bytes) -> dict[str, Any]:
    """Say where a kernel lies: its bytes as little-endian float32, in one piece."""
    raw = stored.astype("<f4").tobytes()
    offset = content.find(raw)
    if stored.dtype != np.float32 or offset < 0:
        raise SystemExit(f"{layer['name']} is not one piece of float32 in the file")
    axes = axes_of(layer)
    if [stored.shape[axis] for axis in axes] != layer["shape"]:
        raise SystemExit(f"{layer['name']}: shape differs from layers.json")
    return layer | {"offset": offset, "stored_shape": list(stored.shape), "axes": axes}


def geometry(layer: dict[str, Any]) -> dict[str, Any]:
    """What ``specnorm audit --geometry`` takes."""
    said = {key: layer[key] for key in ("stride", "dilation", "groups", "padding")}
    return said | {"transposed": layer["kind"].startswith("conv_transpose"), "padding_mode": "zeros", "layout": None}


def take(source: Path, target: Path, model: str) -> None:
    """Copy one model's file, LICENSE and layers.json."""
    published = FILES[model]
    path = source / model / published.file
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise SystemExit(f"{path} has sha256 {found}, expected {published.sha256}")
    layers = json.loads((source / model / "layers.json").read_text())
    tensors = read(path)
    rows = [place(layer, tensors[layer["name"]], content) for layer in layers]
    folder = target / model
    folder.mkdir(exist_ok=True)
    (folder / published.file).write_bytes(content)
    (folder / "LICENSE").write_bytes((source / model / "LICENSE").read_bytes())
    text = ",\n  ".join(json.dumps(row) for row in rows)
    (folder / "layers.json").write_text(f'{{"file": "{published.file}", "layers": [\n  {text}\n]}}\n')
    if path.suffix not in STATES_GEOMETRY:
        (folder / "geometry.json").write_text(json.dumps({row["name"]: geometry(row) for row in rows}, indent=1) + "\n")
    (folder / "SOURCE.md").write_text(
        f"`{published.file}` as published; `layers.json` by `../make.py`.\n\n"
        f"- source: {published.origin}\n- sha256: {published.sha256}\n- licence: {published.licence} (`LICENSE`)\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for model in FILES:
        take(Path(sys.argv[1]), Path(__file__).parent, model)
