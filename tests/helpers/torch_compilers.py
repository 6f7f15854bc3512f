"""Backends of ``torch.compile`` for tests of compiled steps."""

import shutil
import sys

import pytest

COMPILERS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(
            shutil.which("g++") is None or sys.platform == "win32", reason="inductor needs a C++ compiler: none here"
        ),
    ),
]
