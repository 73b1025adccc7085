"""Instance norms whose sums stay exact in float32.

OpenVINO's own (MVN) adds up a whole channel one value after the other. Over the 900,000 voxels
of a patch, many of them the same air, that is wrong by some 1e-3, and one label in a thousand
changes. Means of small blocks, then of those, are right to 1e-6 and take no longer.
"""

import numpy as np
import openvino
from openvino import opset13 as op

_SMALLEST = 2048  # voxels; shorter sums are right as they are
_LARGEST_BLOCK = 8  # voxels along each axis


def exact_instance_norms(model: openvino.Model) -> None:
    """Replaces the instance norms of a model with static shapes, in place."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MVN" and _is_long(node):
            normalised = _two_step(node)
            for target in list(node.output(0).get_target_inputs()):
                target.replace_source_output(normalised.output(0))
    model.validate_nodes_and_infer_types()


def _is_long(node: openvino.Node) -> bool:
    """Whether it normalises each channel over more voxels than a plain sum takes."""
    shape = list(node.input(0).get_source_output().get_shape())
    axes = node.input(1).get_source_output().get_node().get_vector().tolist()
    spatial = list(range(2, len(shape)))
    over_space = sorted(axis % len(shape) for axis in axes) == spatial
    return over_space and int(np.prod(shape[2:])) >= _SMALLEST


def _two_step(node: openvino.Node) -> openvino.Node:
    """(x − mean) / √(variance + ε); the variance is the mean of the squared differences."""
    x, attributes = node.input(0).get_source_output(), node.get_attributes()
    shape = list(x.get_shape())
    mean = _mean(x, shape)
    variance = _mean(op.squared_difference(x, mean), shape)
    epsilon = op.constant(np.float32(attributes["eps"]))
    if attributes["eps_mode"].lower() == "inside_sqrt":
        deviation = op.sqrt(op.add(variance, epsilon))
    else:
        deviation = op.add(op.sqrt(variance), epsilon)
    return op.multiply(op.subtract(x, mean), op.divide(op.constant(np.float32(1)), deviation))


def _mean(x: openvino.Node | openvino.Output, shape: list[int]) -> openvino.Node:
    """Over the spatial axes of (1, channel, …), by blocks of blocks as far as they divide."""
    sizes = shape[2:]
    while max(block := [_block(size) for size in sizes]) > 1:
        none = [0] * len(block)
        x = op.avg_pool(x, block, none, none, block, False, "floor", "explicit")
        sizes = [size // part for size, part in zip(sizes, block, strict=True)]
    return op.reduce_mean(x, op.constant(np.arange(2, len(shape))), True)


def _block(size: int) -> int:
    """The largest block that divides an axis: every block counts the same."""
    return next(block for block in range(_LARGEST_BLOCK, 0, -1) if size % block == 0)
