"""OpenVINO: as exact as torch, converted once, silent."""

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from node.core.errors import ConfigError
from node.inference.backends import openvino_network
from node.inference.folder import checkpoint_path
from node.inference.model import load_model
from node.inference.network import build_network, load_weights, read_checkpoint
from node.inference.plans import read_plan
from node.inference.segmenter import NnunetSegmenter
from node.inference.stage import use_openvino
from tests.model_factory import make_model_folder, noise_volume

CPU = torch.device("cpu")
VOLUME = noise_volume((16, 20, 24), (1.0, 1.0, 1.0))


def network_of(folder: Path) -> torch.nn.Module:
    plan = read_plan(folder, "3d_fullres")
    network = build_network(plan.architecture, 1, 3, folder)
    path = checkpoint_path(folder, "0", "checkpoint_final.pth")
    load_weights(network, read_checkpoint(path), path)
    return network


@pytest.mark.parametrize("patch", [(64, 64, 48), (96, 112)])
def test_logits_are_right_where_much_of_the_patch_is_the_same_air(
    patch: tuple[int, ...], tmp_path: Path
) -> None:
    """Long sums of equal values are what single precision gets wrong first."""
    network = network_of(
        make_model_folder(tmp_path / "m", patch=patch, spacing=(1.0,) * len(patch))
    )
    noise = torch.randn(1, *patch, generator=torch.Generator().manual_seed(0))
    noise[:, : patch[0] // 2] = -1.3
    with torch.no_grad():
        right = copy.deepcopy(network).double()(noise[None].double())[0]
    mine = openvino_network.load(lambda: network, (1, *patch), 2, None, "m")
    (found,) = [prediction.clone() for prediction in mine.run([noise], 1)]
    assert float((found - right).abs().max() / right.abs().max()) < 5e-6


def test_a_converted_network_is_kept_and_a_damaged_one_made_anew(tmp_path: Path) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"), "native")
    cache = tmp_path / "cache"
    first = NnunetSegmenter(model, "cpu", backend="openvino", cache=cache).segment([VOLUME])
    (kept,) = cache.iterdir()
    assert sorted(path.name for path in kept.iterdir()) == [
        "network.bin", "network.xml", "sha256.json",
    ]  # fmt: skip
    made = (kept / "sha256.json").stat().st_mtime_ns
    again = NnunetSegmenter(model, "cpu", backend="openvino", cache=cache).segment([VOLUME])
    assert (again.array == first.array).all()
    assert (kept / "sha256.json").stat().st_mtime_ns == made
    weights = bytearray((kept / "network.bin").read_bytes())
    weights[len(weights) // 2] ^= 0xFF
    (kept / "network.bin").write_bytes(weights)
    third = NnunetSegmenter(model, "cpu", backend="openvino", cache=cache).segment([VOLUME])
    assert (third.array == first.array).all()
    assert (kept / "sha256.json").stat().st_mtime_ns != made


def test_other_weights_are_another_network_in_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for seed in (1, 2):
        model = load_model("m", make_model_folder(tmp_path / f"m{seed}", seed=seed), "native")
        NnunetSegmenter(model, "cpu", backend="openvino", cache=cache)
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"), "native")
    (tmp_path / "file").write_text("not a folder")
    segmenter = NnunetSegmenter(model, "cpu", backend="openvino", cache=tmp_path / "file" / "cache")
    assert segmenter.segment([VOLUME]).array.any()


def test_a_conversion_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    network = network_of(make_model_folder(tmp_path / "m"))
    other = network_of(make_model_folder(tmp_path / "n", seed=5))
    mine = openvino_network.load(lambda: network, (1, 16, 16, 16), 2, None, "m")
    with pytest.raises(openvino_network.Disagrees, match="differ from torch's by"):
        openvino_network.require_agreement(mine, other, (1, 16, 16, 16))


def failing(error: Exception) -> Callable[..., NoReturn]:
    """In place of a library's function."""

    def raising(*arguments: object, **named: object) -> NoReturn:
        raise error

    return raising


@pytest.mark.parametrize("backend", ["auto", "openvino"])
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("Exception from src/plugin.cpp: std::bad_alloc")]
)
def test_a_lack_of_memory_while_converting_is_that_and_says_nothing_of_the_model(
    backend: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"), "native")
    monkeypatch.setattr("openvino.convert_model", failing(error))
    with pytest.raises(type(error)) as raised:
        NnunetSegmenter(model, "cpu", backend=backend)
    assert raised.value is error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 8 bytes")])
def test_a_lack_of_memory_while_weights_are_read_is_no_fault_of_theirs(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"), "native")
    monkeypatch.setattr(torch, "load", failing(error))
    with pytest.raises(type(error)) as raised:
        NnunetSegmenter(model, "cpu")
    assert raised.value is error


def test_what_cannot_be_converted_is_run_by_torch_unless_openvino_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("m", make_model_folder(tmp_path / "m"), "native")
    monkeypatch.setattr("openvino.convert_model", failing(ValueError("no such operator")))
    assert NnunetSegmenter(model, "cpu").segment([VOLUME]).array.any()
    with pytest.raises(ConfigError, match="OpenVINO cannot run it: no such operator"):
        NnunetSegmenter(model, "cpu", backend="openvino")


def test_nothing_is_told_to_openvinos_maker(tmp_path: Path) -> None:
    """Its converter sends usage data unless it is stopped, and leaves files in the home folder."""
    folder = make_model_folder(tmp_path / "m")
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        "from node.inference import environment; environment.prepare(1)\n"
        "from node.inference.model import load_model\n"
        "from node.inference.segmenter import NnunetSegmenter\n"
        f"model = load_model('m', Path({str(folder)!r}), 'native')\n"
        "NnunetSegmenter(model, 'cpu', backend='openvino')\n"
        "print(json.dumps([name for name, module in sys.modules.items()"
        " if name.startswith('openvino_telemetry') and module is not None]))\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert list(home.iterdir()) == []


def test_where_openvino_is_not_installed_torch_runs_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert use_openvino("auto", CPU)
    assert not use_openvino("torch", CPU)
    assert not use_openvino("auto", torch.device("cuda"))
    with pytest.raises(ConfigError, match="runs on the CPU, not on cuda"):
        use_openvino("openvino", torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not use_openvino("auto", CPU)
    with pytest.raises(ConfigError, match=r'pip install "segnode\[openvino\]"'):
        use_openvino("openvino", CPU)
