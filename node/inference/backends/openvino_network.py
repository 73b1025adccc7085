"""OpenVINO on the CPU, in float32: about twice as fast as torch there.

A network is converted once and kept as OpenVINO's own files in the cache folder, under the
fingerprint of all that it is made of.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path

import structlog
import torch
from torch import nn

# Converting a model sends usage data to the maker, unasked. Nothing here may: without the package
# that sends, OpenVINO does without.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

from node.inference.backends.instance_norm import exact_instance_norms  # noqa: E402

_SMALL = 2**18  # voxels of a patch; a layer of so few keeps several cores waiting for each other
_XML, _BIN, _SUMS = "network.xml", "network.bin", "sha256.json"
_MADE_BY = ("openvino", "torch", "dynamic_network_architectures")  # packages
_LAYOUT = 1  # of what is cached; another number makes it anew
_AGREES = 1e-4  # largest difference to torch on noise, relative to the largest logit

log = structlog.get_logger()


class OpenVinoNetwork:
    """A Network compiled for one patch size."""

    device = torch.device("cpu")

    def __init__(self, model: openvino.Model, threads: int) -> None:
        one_by_one = _requests(model, threads, streams=1)
        self._one_by_one = self._together = one_by_one
        if threads > 1 and math.prod(model.input(0).shape[2:]) <= _SMALL:
            self._together = _requests(model, threads, streams=threads)

    def run(self, patches: Iterable[torch.Tensor], batch: int) -> Generator[torch.Tensor]:
        """As Network.run. Several small patches run side by side, each on one core."""
        waiting = iter(patches)
        first = list(islice(waiting, 2))
        yield from _answers(
            self._together if len(first) > 1 else self._one_by_one, chain(first, waiting)
        )

    def on_cpu(self) -> "OpenVinoNetwork":
        """As Network.on_cpu."""
        return self

    def close(self) -> None:
        """As Network.close."""
        self._one_by_one = self._together = []


def _requests(model: openvino.Model, threads: int, streams: int) -> list[openvino.InferRequest]:
    """One more than there are streams: it has its input already when one is done."""
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # pinned to a core that others use, it would wait
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return [compiled.create_infer_request() for _ in range(streams + 1)]


def _answers(
    requests: Sequence[openvino.InferRequest], waiting: Iterator[torch.Tensor]
) -> Generator[torch.Tensor]:
    """In the order of the patches; a request is started anew when its answer was taken."""
    idle, flying = list(requests), deque[openvino.InferRequest]()
    try:
        while True:
            while idle and (patch := next(waiting, None)) is not None:
                flying.append(_started(idle.pop(), patch))
            if not flying:
                return
            request = flying.popleft()
            request.wait()
            yield torch.from_numpy(request.get_output_tensor().data[0])
            idle.append(request)
    finally:
        for request in flying:  # the consumer gave up
            request.wait()


def _started(request: openvino.InferRequest, patch: torch.Tensor) -> openvino.InferRequest:
    request.start_async([patch[None].contiguous().numpy()], share_inputs=True)
    return request


def load(
    build: Callable[[], nn.Module],
    input_shape: tuple[int, ...],
    threads: int,
    cache: Path | None,
    key: str,
    example: tuple[int, ...] | None = None,
) -> OpenVinoNetwork:
    """The network for inputs (channel, *patch); `build` makes torch's where none is cached.

    cache: where converted networks are kept, or None. key: names the module's weights and
    architecture. example: as convert takes it.
    """
    made_of = (_LAYOUT, key, input_shape, *map(version, _MADE_BY))
    name = hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
    kept = cache / name if cache else None
    if kept is not None and _is_whole(kept):
        return OpenVinoNetwork(openvino.Core().read_model(kept / _XML), threads)
    module = build().eval()
    model = convert(module, input_shape, example)
    network = OpenVinoNetwork(model, threads)
    require_agreement(network, module, input_shape)
    if kept is not None:
        _keep(model, kept)
    return network


class Disagrees(Exception):
    """The converted network answers otherwise than torch's."""


def convert(
    module: nn.Module, input_shape: tuple[int, ...], example: tuple[int, ...] | None = None
) -> openvino.Model:
    """A torch module as an OpenVINO model for one input of (channel, *patch).

    example: a smaller shape that the module takes, too: to trace it takes a run or two.
    """
    shape = (1, *input_shape)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message="Converting a tensor")  # the shape is constant
        model = openvino.convert_model(
            module, example_input=torch.zeros(1, *(example or input_shape))
        )
    model.reshape(list(shape))
    exact_instance_norms(model)
    return model


def require_agreement(
    network: OpenVinoNetwork, module: nn.Module, input_shape: tuple[int, ...]
) -> None:
    """Compares both on noise once, when converted. Raises Disagrees."""
    noise = torch.randn(input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = module(noise[None])[0]
    (found,) = (prediction.clone() for prediction in network.run([noise], 1))
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not difference < _AGREES:
        raise Disagrees(f"OpenVINO's logits differ from torch's by {difference:.1e} of the largest")


def _is_whole(folder: Path) -> bool:
    """Whether the files are those that were written, by us: other weights are a wrong answer."""
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        sums: dict[str, str] = json.loads((folder / _SUMS).read_text())
        return all(_sha256(folder / name) == sums[name] for name in (_XML, _BIN))
    except (OSError, ValueError, KeyError):
        return False


def _keep(model: openvino.Model, folder: Path) -> None:
    """Written beside and renamed. A cache that cannot be written only costs time."""
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir(mode=0o700)
        openvino.save_model(model, beside / _XML, compress_to_fp16=False)
        sums = {name: _sha256(beside / name) for name in (_XML, _BIN)}
        (beside / _SUMS).write_text(json.dumps(sums))
        if folder.exists() and not _is_whole(folder):
            shutil.rmtree(folder)
        if folder.exists():  # another worker was faster
            shutil.rmtree(beside)
        else:
            beside.replace(folder)
    except (OSError, RuntimeError) as error:
        log.warning("the converted network is not kept", folder=str(folder), error=str(error))
        shutil.rmtree(beside, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
