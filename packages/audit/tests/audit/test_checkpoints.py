"""PyTorch state dicts: read without torch, and what is read is what torch reads."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from specnorm_audit import audit
from specnorm_audit.readers import pytorch
from specnorm_audit.report import gate_layers

from audit import files
from specnorm.errors import ModelFileError

LIMIT = 8 * 2**30
DATA = np.arange(4, dtype="<f4").tobytes()
GOOD = files.state_dict({"w": files.tensor(files.storage(4), (2, 2), (2, 1))})


def _refused(content: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(ModelFileError) as caught:
        pytorch.read(io.BytesIO(content), "", limit)
    return str(caught.value)


def _legacy(pickled: bytes, *data: bytes) -> bytes:
    head = files.MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02}."
    keys = b"\x80\x02](" + b"".join(files.text(str(i)) for i in range(len(data))) + b"e."
    return head + pickled + keys + b"".join((len(d) // 4).to_bytes(8, "little") + d for d in data)


# -- without torch: what the pickle would do -----------------------------------------------------------------------


NAMES = ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "torch.nn.modules.conv.Conv2d", "__main__.Net"]


@pytest.mark.parametrize("called", NAMES)
def test_names_outside_a_state_dict_are_inert_and_hide_no_tensor(called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called with a tensor, built with one as an attribute, filled with one: nothing is imported, each is listed."""
    monkeypatch.setattr("builtins.__import__", lambda *_: pytest.fail("something was imported"))
    module, _, attribute = called.rpartition(".")
    tensor = files.tensor(files.storage(4), (2, 2), (2, 1))
    held = files.name(module, attribute) + b"(" + tensor + b"tR}" + files.text("a") + tensor + b"sb"
    filled = files.name(module, attribute) + b")\x81(" + files.text("b") + tensor + b"u"
    pickled = files.state_dict({"w": tensor, "x": held, "y": filled})
    for content in (files.checkpoint(pickled, {"0": DATA}), _legacy(pickled.replace(b"tQ", b"NtQ"), DATA)):
        found = pytorch.read(io.BytesIO(content), "", LIMIT)
        assert [tensor.name for tensor in found.arrays] == ["w", "x.0", "x.a", "y.b"]
        assert found.inert == (called,)


@pytest.mark.parametrize(
    "tensor",
    [
        files.tensor(files.storage(1), (1000, 1000), (0, 0)), files.tensor(files.storage(4), (2, 2), (4, 1)),
        files.tensor(files.storage(4), (4,), (1,), offset=1), files.tensor(files.storage(4), (2**40, 2**40), (1, 1)),
        files.tensor(files.storage(4), (2, 2), (2,)), files.tensor(files.storage(4), (2, -2), (2, 1)),
        files.tensor(b"N", (2, 2), (2, 1)),
    ],
)  # fmt: skip
def test_tensors_beyond_their_storage_are_refused(tensor: bytes) -> None:
    _refused(files.checkpoint(files.state_dict({"w": tensor}), {"0": DATA}))


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02" + files.name("collections", "OrderedDict") + b"\x81.",  # an instance without its constructor
        GOOD[:-2] + b"N" + b"bu.",  # attributes of a tensor
        b"\x80\x02" + files.name("torch", "FloatStorage") + b")\x81.",
        b"\x80\x02" + files.name("collections", "Counter") + b"(](((tteetR.",
        b"\x80\x02" + files.name("torch", "float32") + b")R.",  # a dtype is not a function
        b"\x80\x02" + files.text("x") + b")R.",
        b"\x80\x02(" + files.text("module") + b"NNNtQ.",
        b"\x80\x02h\x07.",  # a memo that was never written
        b"\x80\x02t.",
        b"\x80\x02",
        b"",
    ],
)
def test_other_pickles_are_refused(pickled: bytes) -> None:
    _refused(files.checkpoint(pickled, {"0": DATA}))


def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    whole = files.checkpoint(GOOD, {"0": DATA})
    assert "compressed" in _refused(files.checkpoint(GOOD, {"0": bytes(10**6)}, zipfile.ZIP_DEFLATED))
    assert "has extra bytes around it" in _refused(b"PK\x03\x04" + whole)
    assert "limit" in _refused(whole, 10)
    path = tmp_path / "two.pth"
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"hello"
    assert "has extra bytes around it" in _refused(path.read_bytes())
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", GOOD)
    assert "2 pickles" in _refused(path.read_bytes())
    for length in (4, 30, len(whole) // 2, len(whole) - 1):
        _refused(whole[:length])


@pytest.mark.parametrize("game", ["case", "NUL", "zip64", "header", "extra"])
def test_archives_that_can_be_read_in_two_ways_are_refused(game: str, tmp_path: Path) -> None:
    """Each showed a good pickle to the check, and torch opened another: no limit and no list of names held."""
    marker = tmp_path / "ran"
    evil = b"\x80\x02}" + files.text("w") + files.shell(marker) + b"s."
    bomb = files.state_dict({"w": files.tensor(files.storage(4), (1000, 1000), (0, 0))})
    for loaded in (evil, bomb):
        message = _refused(files.two_pickles(GOOD, loaded, {"0": DATA}, game))
        assert "two ways" in message or "called" in message or "the same name" in message
        assert not marker.exists()


# -- files that torch wrote ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_every_bit_is_what_torch_reads(torch: Any, how: dict[str, Any]) -> None:
    """And of files with one byte changed: what is read is read by torch, with the same bits."""
    base, rng = torch.linspace(-3, 3, 24).reshape(6, 4), np.random.default_rng(0)
    state = {
        "t": base.T, "part": base[1:3], "tied": base.reshape(-1)[4:20].reshape(4, 4), "h": base.half(),
        "n": torch.tensor(7),
        "b": base[:, ::2].bfloat16(), "d": base.double(), "none": torch.zeros(0, 3), "p": torch.nn.Parameter(base[0]),
    }  # fmt: skip
    whole = _saved(torch, state, **how)
    trials = [whole] if "pickle_protocol" in how else [whole, *(_changed(whole, rng) for _ in range(150))]
    read = unnamed = 0
    for at, content in enumerate(trials):
        try:
            model = pytorch.read(io.BytesIO(content), "", LIMIT)
            found, inert = {x.name: x.load() for x in model.arrays}, model.inert
        except ModelFileError:
            assert at > 0
            continue
        try:  # torch reads protocol 4 with code only, and an identifier that says nothing of tensors
            expected = state if "pickle_protocol" in how else torch.load(io.BytesIO(content), weights_only=True)
        except UnicodeDecodeError:
            continue
        except pickle.UnpicklingError:  # it names what torch would import
            unnamed += not inert
            continue
        assert found.keys() == expected.keys()
        for name, x in found.items():
            wanted = expected[name].detach()
            wanted = (wanted.float() if wanted.dtype == torch.bfloat16 else wanted).numpy()
            assert (x.dtype, x.shape, x.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())
        read += 1
    assert read >= len(trials) / 20
    assert not unnamed


def _changed(content: bytes, rng: np.random.Generator) -> bytes:
    """One byte of the pickles or of the numbers is another, or some are gone."""
    at, length = int(rng.integers(len(content))), int(rng.integers(0, 3))
    return content[:at] + (b"" if length else bytes([int(rng.integers(256))])) + content[at + max(length, 1) :]


def _saved(torch: Any, content: object, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.pth"
    tensor = files.tensor(files.storage(4), (2, 2), (2, 1))
    pickled = b"\x80\x02}(" + files.text("w") + tensor + files.text("x") + files.shell(marker) + b"u."
    path.write_bytes(
        files.checkpoint(pickled, {"0": DATA}) if zipped else _legacy(pickled.replace(b"tQ", b"NtQ"), DATA)
    )
    report = audit(path)
    assert [row.name for row in report.layers] == ["w"]
    assert "pickle names os.system, of which nothing was constructed" in str(report)
    assert report.summary["inert"] == ["os.system"]
    assert not marker.exists()


def test_whole_modules_are_read_as_their_state_dicts(torch: Any, tmp_path: Path) -> None:
    """YOLO's checkpoints hold one under "model"."""
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3), torch.nn.BatchNorm2d(2))
    for content in (module, {"model": module, "epoch": 3}):
        torch.save(content, tmp_path / "module.pt")
        found = files.read(tmp_path / "module.pt")
        assert found.keys() == module.state_dict().keys()
        assert_array_equal(found["0.weight"], module[0].weight.detach().numpy())
    assert "holds a Tensor" in _refused(_saved(torch, torch.ones(2, 2)))
    assert "no tensors" in _refused(_saved(torch, {"epoch": 3}))


def test_a_pickled_module_states_its_geometry(torch: Any, tmp_path: Path) -> None:
    """The truth is the dense matrix of each layer. Nothing is constructed: classes and hooks are data."""
    torch.manual_seed(0)
    nn, size = torch.nn, 6
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, output_padding=1),
        nn.Conv2d(2, 2, 3, groups=2, dilation=2, padding="same", padding_mode="circular", bias=False),
        nn.Conv1d(2, 3, 3, bias=False),
    )  # fmt: skip
    torch.save(net, tmp_path / "m.pt")
    rows: Any = audit(tmp_path / "m.pt", input_shape=size).layers
    assert len(rows) == 4
    for layer, row in zip(net, rows, strict=True):
        shape = (layer.in_channels, *[size] * (layer.weight.ndim - 2))
        x = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
        with torch.no_grad():
            matrix = (layer(x) - layer(x * 0)).reshape(len(x), -1).double().numpy()
        true = float(np.linalg.norm(matrix, 2))
        assert row.lower * (1 - 1e-6) <= true <= row.upper * (1 + 1e-6)
        assert row.upper <= 1.01 * true
        assert row.assumed == ("weight=as stored",)


def test_a_pickled_module_whose_code_decides_is_not_proven(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nn = torch.nn
    scaled = type("ScaledConv", (nn.Conv2d,), {"__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], "ScaledConv", scaled, raising=False)
    normed = nn.utils.spectral_norm(nn.Linear(3, 4))
    normed(torch.ones(1, 3))
    normed.weight_orig.data *= 5  # as a step of a training after the last call
    net = nn.Sequential(scaled(2, 2, 3), normed, nn.Bilinear(2, 2, 2))
    torch.save(net, tmp_path / "m.pt")
    rows = {row.name: row for row in audit(tmp_path / "m.pt").layers}
    used = float(torch.linalg.matrix_norm(normed.eval()(torch.eye(3)) - normed(torch.zeros(1, 3)), 2).item())
    assert "ScaledConv, whose code determines" in str(rows["0.weight"].reason)
    assert rows["1.weight"].upper == pytest.approx(used, rel=2e-3)
    assert "Bilinear" in str(rows["2.weight"].reason)
    (row,) = [row for row in audit(tmp_path / "m.pt", assume_stored="0.*").layers if row.name == "0.weight"]
    assert row.status == "ok"
    assert row.spec is not None


def _scaled(x: Any) -> Any:
    return 5 * x


def _scaling(layer: Any, *_: Any) -> None:
    layer.weight.data.mul_(5)


@pytest.mark.parametrize("change", ["forward", "register_forward_pre_hook", "register_forward_hook"])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_a_pickled_layer_that_code_changes_is_not_read_as_stored(change: str, kind: str, tmp_path: Path) -> None:
    nn: Any = pytest.importorskip("torch").nn
    layer = nn.Linear(3, 3) if kind == "Linear" else nn.Conv2d(3, 3, 3)
    if change == "forward":
        layer.forward = _scaled
    else:
        getattr(layer, change)(_scaling)
    pytest.importorskip("torch").save(nn.Sequential(layer, nn.Linear(3, 3)), tmp_path / "m.pt")
    report = audit(tmp_path / "m.pt")
    assert [(row.status, row.upper is None) for row in report.layers] == [("error", True), ("ok", False)]
    assert ("code" if change == "forward" else "has hooks") in str(report.layers[0].reason)
    assert gate_layers(report, 1e6).outcome == "undecided"
