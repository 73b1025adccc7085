"""Which devices there are, by an NVML that stands in for the driver's."""

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from node.inference import devices

NAMES = {"GPU-aa": "A", "GPU-bb": "B", "GPU-cc": "C"}


@dataclass
class _Memory:
    total: int = 80 * 2**30


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = ModuleType("pynvml")
    nvml.__dict__.update(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(NAMES),
        nvmlDeviceGetHandleByIndex=lambda index: list(NAMES)[index],
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetName=lambda handle: NAMES[handle],
        nvmlDeviceGetMemoryInfo=lambda handle: _Memory(),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(devices, "torch_knows_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, "ABC"),
        ("2,0", "CA"),
        ("GPU-bb", "B"),
        ("1,-1,2", "B"),  # CUDA stops at the first entry that it does not know
        ("7,0", ""),
        ("", ""),
    ],
)
def test_the_gpus_are_those_that_cuda_sees_in_its_order(
    three_gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "".join(gpu.name for gpu in devices.gpus()) == names


def test_auto_is_every_gpu_and_a_named_device_only_that(three_gpus: None) -> None:
    assert devices.resolve("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices.resolve("cuda:1") == ["cuda:1"]
    assert devices.resolve("cpu") == ["cpu"]


def test_the_check_names_what_auto_comes_to(three_gpus: None) -> None:
    assert devices.sentence("auto", 0, "auto").startswith("cuda:0 A, 80 GiB, cuda:1 B, 80 GiB")
    assert devices.sentence("cuda:2", 0, "auto") == "cuda:2 C, 80 GiB"
    assert devices.sentence("cpu", 3, "torch").startswith("CPU, 3 threads, torch ")
    with pytest.raises(ValueError, match="there is no cuda:3: 3 GPUs are visible"):
        devices.sentence("cuda:3", 0, "auto")


def test_without_nvml_auto_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.gpus() == []
    assert devices.resolve("auto") == ["auto"]
    assert devices.sentence("auto", 2, "torch").startswith("CPU, 2 threads, torch ")
