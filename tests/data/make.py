"""Convert published weight files into the small `.npz` files of this folder: ``python make.py SOURCE_FOLDER``.

SOURCE_FOLDER holds one folder a model with the published file, its LICENSE and layers.json, as `README.md` lists them.
Every convolution kernel that layers.json names is kept, under its own name, in its own dtype.
"""

from __future__ import annotations

import hashlib
import json
import shutil
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
    """Tensors of a checkpoint by name; no code in it is executed."""
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


def in_torch_order(kernel: NDArray[Any], layer: dict[str, Any]) -> NDArray[Any]:
    """Keras stores (h, w, in, out), and depthwise kernels (h, w, in, 1); torch order is what `shape` says."""
    if "stored_shape" in layer:
        kernel = np.transpose(kernel, (2, 3, 0, 1) if layer["groups"] > 1 else (3, 2, 0, 1))
    return np.ascontiguousarray(kernel)


def convert(source: Path, target: Path, model: str) -> None:
    """Write one model's kernels, layers.json and LICENSE."""
    published = FILES[model]
    path = source / model / published.file
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != published.sha256:
        raise SystemExit(f"{path} has sha256 {found}, expected {published.sha256}")
    layers = json.loads((source / model / "layers.json").read_text())
    tensors = read(path)
    kernels: Any = {layer["name"]: in_torch_order(tensors[layer["name"]], layer) for layer in layers}
    for layer in layers:
        if list(kernels[layer["name"]].shape) != layer["shape"]:
            raise SystemExit(f"{model} {layer['name']}: shape differs from layers.json")
    folder = target / model
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "kernels.npz", **kernels)
    for name in ("layers.json", "LICENSE"):
        (folder / name).unlink(missing_ok=True)
        shutil.copyfile(source / model / name, folder / name)
    (folder / "SOURCE.md").write_text(
        f"`kernels.npz` holds the convolution kernels of `{published.file}`, unchanged, converted by `../make.py`.\n\n"
        f"- source: {published.origin}\n- sha256 of that file: {published.sha256}\n"
        f"- licence: {published.licence} (`LICENSE`)\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for model in FILES:
        convert(Path(sys.argv[1]), Path(__file__).parent, model)
