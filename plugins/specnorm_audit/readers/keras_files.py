"""Keras files: ``.h5`` in all its kinds, and ``.keras`` archives. `hdf5` opens them, `keras` says what is in them."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import BinaryIO, Literal

from specnorm_networks import ModelArrays, Tensor

from specnorm import ModelFileError
from specnorm_audit.readers import hdf5, keras

_WEIGHTS = "model.weights.h5"
_MAX_CONFIG = 64 * 2**20
_DAMAGE = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, OverflowError, KeyError,
)  # fmt: skip


def read_hdf5(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of an HDF5 file, and what a Keras configuration in it says of them."""
    del path
    root = hdf5.open_file(file)
    config = hdf5.text_attribute(root, "model_config", file.seek(0, 2))
    version = hdf5.text_attribute(root, "keras_version", 100)
    for place, item in hdf5.walk(root) if version is None else ():
        if place == ("model_weights",):
            version = hdf5.text_attribute(item, "keras_version", 100)
            break
    if version is not None and version.startswith(("0.", "1.")):
        raise ModelFileError(
            f"it was written by Keras {version}, whose kernels may be in either order of axes. Load and save it with "
            "Keras 2 or newer."
        )
    found, owners = list(hdf5.datasets(root, max_bytes)), hdf5.names(root)
    if config is None and version is None and not owners and not any("vars" in dataset.path for dataset in found):
        return ModelArrays([_plain(dataset) for dataset in found])  # not of Keras: names and shapes decide
    return ModelArrays(keras.describe(found, owners, None if config is None else keras.parse(config)))


def read_archive(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of a ``.keras`` archive; ``max_bytes`` is of all of them, and of the archive unpacked."""
    del path
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise ModelFileError("two of its entries have one name.")
            if _WEIGHTS not in entries:
                raise ModelFileError(
                    f"it has no {_WEIGHTS}: its weights are sharded or elsewhere. Save it again into one file."
                )
            wanted = [entries[_WEIGHTS], entries["config.json"]]
            if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in wanted):
                raise ModelFileError("it uses a compression that Keras never does. Save it again.")
            if wanted[0].file_size > max_bytes or wanted[1].file_size > _MAX_CONFIG:
                raise ModelFileError(
                    f"it unpacks to {wanted[0].file_size} bytes of weights and {wanted[1].file_size} of configuration, "
                    f"more than the limits of {max_bytes} and {_MAX_CONFIG}. Raise max_bytes if you trust it."
                )
            weights, config = archive.read(wanted[0]), archive.read(wanted[1])
    except _DAMAGE as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"it is a damaged .keras archive: {error}.") from error
    root = hdf5.open_file(io.BytesIO(weights))
    configuration = keras.parse(config.decode("utf-8", "replace"))
    return ModelArrays(keras.describe(list(hdf5.datasets(root, max_bytes)), hdf5.names(root), configuration))


def _plain(dataset: hdf5.Dataset) -> Tensor:
    lost: Literal["unknown"] | None = "unknown" if dataset.dtype == "unknown" else None
    name = "/".join(dataset.path)
    return Tensor(name, dataset.shape, dataset.dtype, dataset.load, kind=lost, refusal=dataset.refusal)
