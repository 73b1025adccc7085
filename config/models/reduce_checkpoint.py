"""Reduces an nnU-Net v2 training checkpoint to what prediction needs.

Training leaves the optimizer's state and its logs in the file: half its size or more, and NumPy
scalars that `torch.load(weights_only=True)` refuses. The reduced file loads without any allow-list,
and stock nnU-Net predicts with it unchanged. Training cannot be continued from it.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

KEPT = ("network_weights", "trainer_name", "inference_allowed_mirroring_axes")
KEPT_INIT_ARGS = ("configuration", "fold")  # plans and dataset lie beside as JSON files

# Rebuilds one number from its dtype and its bytes; its module's name changed with NumPy 2.
_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)),
]


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint as training wrote it; only tensors, plain values and NumPy numbers load.

    Raises pickle.UnpicklingError where the file asks for anything else.
    """
    with torch.serialization.safe_globals(HARMLESS):
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def reduced(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What `nnUNetPredictor.initialize_from_trained_model_folder` reads, and no more."""
    init_args = {key: checkpoint["init_args"][key] for key in KEPT_INIT_ARGS}
    return {key: checkpoint[key] for key in KEPT} | {"init_args": init_args}


def bits(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    """Each weight as something that compares bit for bit: type, shape, bytes."""
    return {
        name: (weight.dtype, weight.shape, weight.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, weight in weights.items()
    }


def main() -> None:
    """Reads SOURCE, writes TARGET, reads it back and compares every weight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="checkpoint_final.pth as training wrote it")
    parser.add_argument("target", type=Path, help="the reduced checkpoint to write")
    arguments = parser.parse_args()

    checkpoint = read_training_checkpoint(arguments.source)
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(reduced(checkpoint), arguments.target)

    written = torch.load(arguments.target, map_location="cpu", weights_only=True)
    if bits(written["network_weights"]) != bits(checkpoint["network_weights"]):
        raise SystemExit(f"{arguments.target}: the weights read back differ from the source's")
    before, after = arguments.source.stat().st_size, arguments.target.stat().st_size
    count = len(written["network_weights"])
    print(f"{arguments.target}: {before:,} → {after:,} bytes, {count} weights bit for bit equal")


if __name__ == "__main__":
    main()
