"""Finding plugins: the right one, or an error that says what is wrong."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib

import specnorm
from specnorm import backends
from specnorm.backends import registry
from specnorm.errors import BackendConflict, BackendVersion, BrokenBackend, MixedBackends, NoBackend
from specnorm.plugin import LayerKernel

# -- fake distributions ------------------------------------------------------------------------------------------
PLUGIN = """
import numpy as np
from specnorm.backends import Backend
class Fake(Backend):
    name = framework = {name!r}
    api_version = 2
    def is_array(self, x): return type(x).__name__ == "Array"
    def version(self): return "3.2"
    def namespace(self, x): return np
    def cholesky_ok(self, a): return np.zeros(a.shape[:-2], dtype=bool)
    asarray = to_numpy = np.asarray
BACKEND = Fake()
"""
READER = """
from specnorm.plugin import LayerReader
class Blur:
    def __init__(self, **said): self.said = said
class Reader(LayerReader):
    def layer(self, x, input_shape=None):
        return x.said["layer"] if isinstance(x, Blur) else None
READER = Reader()
"""

Installer = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """Install distributions that register backends, and modules; nothing else is registered meanwhile, NumPy apart."""
    folders: list[str] = []
    modules = set(sys.modules)

    def fake_entry_points(*, group: str) -> Sequence[importlib.metadata.EntryPoint]:
        found = importlib.metadata.distributions(path=folders)
        real = [e for e in importlib.metadata.entry_points(group=group) if e.name == "numpy"]
        return [e for d in found for e in d.entry_points if e.group == group] + real

    def put(distribution: str, entries: dict[str, str], group: str = backends.GROUP, **sources: str) -> None:
        lines = "\n".join(f"{name} = {value}" for name, value in entries.items())
        folder = tmp_path / distribution
        metadata = folder / f"{distribution.replace('-', '_')}-1.5.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        folders.append(str(folder))
        backends.refresh()

    monkeypatch.setattr(registry, "entry_points", fake_entry_points)
    backends.refresh()
    yield put
    monkeypatch.undo()
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    backends.refresh()


def array_of(root: str, *bases: type) -> Any:
    cls = type("Array", bases, {"__module__": f"{root}._core"})
    return np.zeros(3).view(cls) if bases else cls()


def test_plugin_is_found_by_the_package_of_the_class(install: Installer) -> None:
    install("fakelib-plugin", {"fakelib": "fakelib_plugin:BACKEND"}, fakelib_plugin=PLUGIN.format(name="fakelib"))
    x = array_of("fakelib")
    assert backends.backend_for(x).name == "fakelib"
    assert backends.backend_for(x) is backends.load("fakelib")
    assert backends.backend_for(np.ones(2)).name == "numpy"


def test_plugin_of_the_nearest_base_wins(install: Installer) -> None:
    x = array_of("fakelib", np.ndarray)
    with pytest.raises(NoBackend, match=r"fakelib\._core\.Array is not a plain NumPy array.*np\.asarray"):
        backends.backend_for(x)
    install("fakelib-plugin", {"fakelib": "fakelib_plugin:BACKEND"}, fakelib_plugin=PLUGIN.format(name="fakelib"))
    assert backends.backend_for(x).name == "fakelib"


@pytest.mark.parametrize("x", [[1.0, 2.0], (1.0,), 1.0, 3, "kernel", None, {"weight": 1}], ids=repr)
def test_what_is_no_array(x: object) -> None:
    """A path and a tree of arrays are for `audit`."""
    words = f"{type(x).__name__} is not an array. Pass an array of .*numpy"
    for_audit = f"takes one layer's kernel, got (the|a) {type(x).__name__}.*specnorm.audit"
    with pytest.raises(NoBackend, match=for_audit if isinstance(x, str | dict) else words):
        specnorm.f4_bound(x)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("root", "words"),
    [("fakelib", "No backend for fakelib._core.Array|Installed: numpy, otherlib.|write a plugin")]
    + [
        (name, f"Install one: pip install '.[{name}]'|Installed: numpy, otherlib.") for name in ("torch", "jax", "cupy")
    ],
)
def test_library_without_a_plugin(install: Installer, root: str, words: str) -> None:
    install("other-plugin", dict.fromkeys(("otherlib", "library-that-went"), "missing:BACKEND"), otherlib="")
    with pytest.raises(NoBackend) as caught:
        specnorm.f4_bound(array_of(root))
    assert [word for word in words.split("|") if word not in str(caught.value)] == []


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda **_: ())
    backends.refresh()
    try:
        assert backends.listing() == []
        with pytest.raises(NoBackend, match=r"Installed: none"):
            specnorm.f4_bound(np.ones((2, 2)))
        with pytest.raises(NoBackend, match="none is installed"):
            specnorm.f4_bound([1.0])  # type: ignore[arg-type]
        with pytest.raises(NoBackend, match="No backend is registered as 'numpy'"):
            backends.load("numpy")
    finally:
        monkeypatch.undo()
        backends.refresh()


def of_version(number: int) -> str:
    return PLUGIN.format(name="fakelib") + f"Fake.api_version = {number}"


def without(library: str) -> str:
    return f"raise ModuleNotFoundError('No module named {library}', name={library!r})"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (without("torch"), r"needs torch, which is not installed: pip install '\.\[torch\]'"),
        (without("jax"), r"needs jax, which is not installed: pip install '\.\[jax\]'"),
        (without("fakelib"), "needs fakelib, which is not installed: install fakelib"),
        (of_version(3), "for version 3 of the plugin interface; this specnorm has 2. Upgrade specnorm-bounds"),
        (of_version(1), "for version 1 of the plugin interface; this specnorm has 2. Upgrade the plugin"),
        ("import module_nobody_has", r"cannot be imported: No module named 'module_nobody_has'\. Reinstall it"),
        ("raise ModuleNotFoundError('fakelib needs fakelib-core')", "fakelib needs fakelib-core"),
        ("raise ModuleNotFoundError('No module named x', name='fakelib.x')", "cannot be imported"),
        ("def broken(:", "fails on import: SyntaxError"),
        ("raise RuntimeError('no driver')", "fails on import: RuntimeError: no driver"),
        ("raise OSError('lib.so is missing')", "fails on import: OSError: lib.so is missing"),
        ("from json import nothing", "fails on import: ImportError"),
        ("import json; json.nothing", "fails on import: AttributeError"),
        ("BACKENDS = 1", "names an object that does not exist: .*BACKEND"),
        ("BACKEND = 1", "is a int without an api_version; expected a Backend object"),
        ("class Foreign: api_version = 2\nBACKEND = Foreign()", "is a Foreign; expected an object derived"),
        (
            "from specnorm.plugin import Backend\nclass Fake(Backend):\n    api_version = 2\nBACKEND = Fake()",
            "does not define name, framework, is_array, .*asarray, to_numpy, cholesky_ok, which every plugin",
        ),
    ],
)  # fmt: skip
def test_broken_plugin(install: Installer, source: str, message: str) -> None:
    lacks = re.search("name='(torch|jax)'", source)
    root = lacks[1] if lacks else "fakelib"
    install("some-plugin", {root: "plugin_of_it:BACKEND"}, plugin_of_it=source)
    with pytest.raises(BackendVersion if "for version" in message else BrokenBackend, match=message) as caught:
        specnorm.f4_bound(array_of(root))
    assert f"backend {root!r} of some-plugin 1.5 (plugin_of_it:BACKEND)" in str(caught.value)
    is_caused = not re.search("expected|define|version", message)
    assert (caught.value.__cause__ is not None) >= is_caused


def test_two_distributions_claim_a_library(install: Installer) -> None:
    install("first-plugin", {"fakelib": "first_plugin:BACKEND"}, first_plugin=PLUGIN.format(name="fakelib"))
    install("second-plugin", {"fakelib": "second_plugin:BACKEND"}, second_plugin=PLUGIN.format(name="fakelib"))
    with pytest.raises(BackendConflict) as caught:
        specnorm.f4_bound(array_of("fakelib"))
    message = str(caught.value)
    assert "first-plugin 1.5 (first_plugin:BACKEND)" in message
    assert "second-plugin 1.5 (second_plugin:BACKEND)" in message
    assert "Uninstall one" in message
    assert specnorm.f4_bound(np.ones((2, 2))) > 0, "other libraries must not suffer"


def test_only_the_plugin_asked_for_is_imported(install: Installer) -> None:
    install("bad-plugin", {"badlib": "bad_plugin:BACKEND"}, bad_plugin="raise RuntimeError('imported')")
    assert specnorm.f4_bound(np.ones((2, 2))) > 0
    assert "bad_plugin" not in sys.modules


def test_listing_shows_the_broken_without_hiding_the_others(install: Installer) -> None:
    sad = PLUGIN.format(name="sadlib") + "def devices(self): raise RuntimeError('no driver')\nFake.devices = devices"
    install("bad-plugin", {"badlib": "bad_plugin:BACKEND"}, bad_plugin="raise RuntimeError('no way')")
    install("good-plugin", {"goodlib": "good_plugin:BACKEND"}, good_plugin=PLUGIN.format(name="goodlib"))
    install("sad-plugin", {"sadlib": "sad_plugin:BACKEND"}, sad_plugin=sad)
    install("good-plugin2", {"twolib": "good_plugin:BACKEND"})
    install("good-plugin3", {"twolib": "good_plugin:BACKEND"})
    rows = {row.name: row for row in backends.listing()}
    assert list(rows) == ["badlib", "goodlib", "numpy", "sadlib", "twolib"]
    assert rows["numpy"].version == np.__version__
    assert rows["numpy"].devices == ("cpu",)
    assert rows["numpy"].problem is None
    assert rows["numpy"].distribution.startswith("specnorm-bounds ")
    assert rows["goodlib"] == backends.Listing("goodlib", "good-plugin 1.5", "3.2", ("cpu",), None)
    for name, problem in {"badlib": "no way", "sadlib": "no driver", "twolib": "two distributions"}.items():
        assert problem in str(rows[name].problem)
        assert "BrokenBackend" not in str(rows[name].problem)  # a missing library is nothing broken
        assert rows[name].devices == ()


# -- which objects are arrays ------------------------------------------------------------------------------------
@pytest.mark.libraries
def test_mixed_libraries_are_refused(xp: Lib) -> None:
    if xp.name == "numpy":
        pytest.skip("it is the other library")
    own = re.escape(xp.backend.name)
    with pytest.raises(MixedBackends, match=rf"{own}, numpy\. Convert them"):
        backends.backend_for(xp.asarray(np.ones(2)), np.ones(2))


@pytest.mark.libraries
def test_mixed_devices_are_refused(xp: Lib) -> None:
    names = [d for d in xp.backend.devices() if "no_" not in d]
    if len(names) < 2:
        pytest.skip(f"{xp.name} has one device here")
    first, second = (xp.backend.asarray(np.ones(2, dtype=np.float32), d) for d in names[:2])
    with pytest.raises(MixedBackends, match=r"different devices: .*Move them"):
        backends.backend_for(first, second)


def test_torch_objects(torch: Any) -> None:
    dense = torch.ones(2, 2, 3)
    with pytest.raises(NoBackend, match=r"torch\.sparse_coo.*to_dense"):
        specnorm.f4_bound(dense.to_sparse())
    with pytest.raises(NoBackend, match="no shape yet: run its module once"):
        specnorm.enclose(torch.nn.LazyConv2d(2, 3).weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([dense, dense])
    with pytest.raises(NoBackend, match="tensor is nested"):
        specnorm.enclose(nested)
    with pytest.raises(NoBackend, match=r"Conv2d is not an array.*pass that, with the layer's geometry"):
        specnorm.matrix_norm(torch.nn.Conv2d(1, 1, 1))
    with pytest.raises(NoBackend, match="dtype is not an array"):
        specnorm.f4_bound(torch.float32)
    parameter = torch.nn.Parameter(dense)
    value = specnorm.f4_bound(parameter)
    assert value.requires_grad
    assert float(value.detach()) == float(specnorm.f4_bound(dense))

    class Mine(torch.Tensor):  # type: ignore[misc]
        pass

    assert float(specnorm.f4_bound(dense.as_subclass(Mine))) == float(specnorm.f4_bound(dense))


def test_jax_objects(jax: Any) -> None:
    with pytest.raises(NoBackend, match="ShapeDtypeStruct is not an array"):
        specnorm.f4_bound(jax.ShapeDtypeStruct((2, 2), np.float32))
    with pytest.raises(NoBackend, match="is not an array"):
        specnorm.f4_bound(jax.numpy.float32)


def test_a_reader_of_layers_returns_a_kernel_and_its_geometry(install: Installer) -> None:
    install("reader", {"my_layers": "my_layers:READER"}, registry.READERS, my_layers=READER)
    made = importlib.import_module("my_layers").Blur
    kernel = np.ones((1, 1, 3, 3))
    layer: Any
    for layer in ((kernel, {"stride": 3}), LayerKernel(kernel, {"stride": 3})):
        found = specnorm.enclose(made(layer=layer))
        assert found.lower <= 3 <= found.upper  # each output is the sum of nine pixels of its own
    for layer in (kernel, (kernel,), (kernel, None), (kernel.tolist(), {}), "kernel"):
        with pytest.raises(BrokenBackend, match=r"Reader\.layer returned .* for a Blur.*an array, and a mapping"):
            specnorm.enclose(made(layer=layer))
    with pytest.raises(NoBackend, match="Blur"):
        specnorm.enclose(made(layer=None))
