"""A preprocessed case through a model's networks: tiles, mirrors, folds; one tensor of logits."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import structlog
import torch

from node.core.model import TILE_STEP, Profile, Progress, Tell
from node.inference.backends import Network
from node.inference.out_of_memory import is_out_of_memory
from node.inference.plans import Plan
from node.inference.preprocess import Case
from node.inference.tiles import Sum, Tile, gaussian, mirrors, not_air, pad, tiles

_CPU = torch.device("cpu")
_SURE = 8.0  # a logit

log = structlog.get_logger()


@dataclass(frozen=True)
class Way:
    """One way to run a case, from fast to frugal.

    batch: patches at a time. results: where the logits are added up. on_cpu: the networks, too.
    """

    batch: int
    results: torch.device
    on_cpu: bool = False

    def __str__(self) -> str:
        if self.on_cpu:
            return "the network on the CPU"
        where = "the CPU" if self.results.type == "cpu" else "the GPU"
        return f"{self.batch} tiles at a time, logits on {where}"


class Predictor:
    """The networks of one model, one per fold, resident on one device.

    mirror_axes: spatial axes (from 0) that training mirrored, or None. batch: patches at a time.
    """

    def __init__(
        self,
        plan: Plan,
        networks: Sequence[Network],
        mirror_axes: Sequence[int] | None,
        profile: Profile,
        batch: int = 1,
    ) -> None:
        self._plan, self._networks, self._batch = plan, list(networks), batch
        self._flips = mirrors(mirror_axes if profile is Profile.EXACT else None)
        self._step = TILE_STEP[profile]
        self._skips_air = profile is Profile.FASTEST

    @torch.inference_mode()
    def logits(self, case: Case, tell: Tell) -> torch.Tensor:
        """Half precision (head, slice, row, column) on the grid of case.image.

        On the networks' device, or on the CPU where that has no room. Raises torch's
        OutOfMemoryError or MemoryError where nothing has, and what `tell` raises.
        """
        possible = ways(self._networks[0].device, self._batch)
        for way, frugal in zip(possible, [*possible[1:], None], strict=True):
            try:
                return self._all_folds(case, way, tell)
            except (RuntimeError, MemoryError) as error:
                if frugal is None or not is_out_of_memory(error):
                    raise
                note = f"out of memory with {way}; tried again with {frugal}"
                log.warning(note, error=str(error).partition("\n")[0])
            # Here, not in the handler: its traceback would keep every tensor of the failed way.
            _free_cached_memory()
            tell(Progress(0.0, note))
        raise AssertionError("the last way returns or raises")

    def _all_folds(self, case: Case, way: Way, tell: Tell) -> torch.Tensor:
        count = len(self._networks)
        mean = self._one_fold(self._networks[0], case, way, _part(tell, 0, count))
        if count == 1:
            return mean
        mean = mean.cpu()  # where nnU-Net adds them: the device has room for one
        for number, network in enumerate(self._networks[1:], start=1):
            mean += self._one_fold(network, case, way, _part(tell, number, count)).cpu()
        return mean.div_(count)

    def _one_fold(self, network: Network, case: Case, way: Way, tell: Tell) -> torch.Tensor:
        if way.on_cpu:
            network = network.on_cpu()
        image, inside = pad(case.image.to(way.results), self._plan.patch_size)
        places = tiles(image.shape[1:], self._plan.patch_size, self._step)
        shown = list(not_air(image, places, case.air)) if self._skips_air else places
        total = Sum.empty(self._plan.heads.count, image.shape[1:], way.results)
        weight = gaussian(self._plan.patch_size, way.results)
        with closing(self._mirrored(network, image, shown, way)) as predictions:
            for number, (tile, prediction) in enumerate(predictions):
                total.add(tile, prediction.to(way.results), weight)
                tell(Progress((number + 1) / len(shown)))
        background = None if len(shown) == len(places) else self._background()
        return total.mean(background)[:, *inside]

    def _mirrored(
        self, network: Network, image: torch.Tensor, places: Sequence[Tile], way: Way
    ) -> Generator[tuple[Tile, torch.Tensor]]:
        """Each tile with the mean of its mirrored predictions, summed in nnU-Net's order."""
        with closing(network.run(self._patches(image, places), way.batch)) as predictions:
            for tile in places:
                mean = next(predictions)
                if len(self._flips) > 1:
                    mean = mean.clone()  # the next prediction takes its place
                    for axes in self._flips[1:]:
                        mean += torch.flip(next(predictions), axes)
                    mean /= len(self._flips)
                yield tile, mean

    def _patches(self, image: torch.Tensor, places: Sequence[Tile]) -> Iterator[torch.Tensor]:
        for tile in places:
            patch = image[:, *tile].reshape(len(image), *self._plan.patch_size)
            for axes in self._flips:
                yield torch.flip(patch, axes)

    def _background(self) -> list[float]:
        """Logits of a voxel where nothing is: the first head wins, or no region is painted.

        So far apart that as a probability, too, every label is nothing.
        """
        heads = self._plan.heads
        first = _SURE if heads.regions_class_order is None else -_SURE
        return [first, *[-_SURE] * (heads.count - 1)]


def ways(device: torch.device, batch: int) -> list[Way]:
    """How a case may be run, the usual way first; every case begins with that one."""
    batches = sorted({batch, 1}, reverse=True)
    on_device = [Way(number, device) for number in batches]
    if device.type == "cpu":
        return on_device
    return [*on_device, Way(1, _CPU), Way(1, _CPU, on_cpu=True)]


def _part(tell: Tell, number: int, count: int) -> Tell:
    """Progress within one of `count` folds as progress of the whole."""

    def tell_part(progress: Progress) -> None:
        tell(Progress((number + progress.done) / count, progress.note))

    return tell_part


def _free_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
