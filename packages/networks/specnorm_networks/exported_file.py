"""The ONNX file that was exported from a live model: an answer about the model is proven of this file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from specnorm.errors import MethodError

if TYPE_CHECKING:
    import onnx


class AnswerWithFile:
    """An answer that is proven of an exported file; ``file`` has its bytes, or None for other sources."""

    file: bytes | None

    @property
    def model(self) -> onnx.ModelProto | None:
        """The exported ONNX model; None unless the source was a live model."""
        if self.file is None:
            return None
        import onnx

        return onnx.load_from_string(self.file)

    @property
    def digest(self) -> str:
        """SHA-256 of the exported file, in hexadecimal digits; empty unless the source was a live model."""
        return "" if self.file is None else hashlib.sha256(self.file).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the exported ONNX model.

        Parameters
        ----------
        path : str or PathLike
            A file of this name is written over.

        Raises
        ------
        MethodError
            If the source was no live model: the answer is about a file or a graph of the user's then.
        """
        if self.file is None:
            raise MethodError("the source was not a live model: the result is about the given file or graph.")
        Path(path).write_bytes(self.file)
