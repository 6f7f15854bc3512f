"""Every report says by which versions its numbers were obtained."""

from __future__ import annotations

import numpy as np
import pytest
from specnorm_audit import audit


def test_versions_of_what_measured() -> None:
    made = audit({"k": np.ones((2, 2, 3))}).environment
    assert set(made) == {"date", "Python", "numpy", "platform"}
    assert made["numpy"] == np.__version__
    torch = pytest.importorskip("torch")
    assert audit({"k": torch.ones(2, 2, 3)}).environment["torch"] == torch.__version__
    assert "torch" in audit({"k": np.ones((2, 2, 3))}, backend="torch").environment
