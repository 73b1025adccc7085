import numpy as np
from PIL import Image

from node.core.model import InputRules
from node.core.volume import LabelMap
from node.dicom.assemble import assemble
from node.dicom.overlay import overlay
from tests.unit.test_seg import SEGMENTS, a_source, labels_on


def _colours(picture: Image.Image) -> set[tuple[int, ...]]:
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return {tuple(int(v) for v in colour) for colour in np.unique(pixels, axis=0)}


def test_a_segment_that_is_there_is_drawn_in_its_colour() -> None:
    source = a_source()
    picture = overlay(assemble(source, InputRules()), labels_on(source), SEGMENTS[:2])
    assert {segment.colour for segment in SEGMENTS[:2]} <= _colours(picture)
    assert 300 < picture.width < 4000


def test_nothing_found_still_makes_a_picture() -> None:
    source = a_source()
    volume = assemble(source, InputRules())
    empty = LabelMap(np.zeros(volume.array.shape, np.uint8), volume.affine, "1.2")
    assert overlay(volume, empty, SEGMENTS[:2]).height > 100
