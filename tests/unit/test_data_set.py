"""The walk over a data set: the same verdicts as pydicom's parser, in bounded time."""

import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)
from pynetdicom.dsutils import encode

from node.dicom.header import Undecodable
from node.dicom.inbox import data_set_offset
from node.dicom.receiver import data_set
from node.dicom.receiver.command import is_uid
from node.dicom.receiver.data_set import NotWhole
from tests.pydicoms_verdict import read_header
from tests.series_factory import make_series

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def _ours(raw: bytes, syntax: str, path: Path) -> tuple[str, ...] | None:
    path.write_bytes(raw)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = data_set.identity(descriptor, 0, len(raw), syntax)
    except NotWhole:
        return None
    finally:
        os.close(descriptor)
    uids = (
        found.sop_class_uid,
        found.sop_instance_uid,
        found.study_instance_uid,
        found.series_instance_uid,
    )
    return uids if all(is_uid(one) for one in uids) else None


def _pydicoms(raw: bytes, syntax: str) -> tuple[str, ...] | None:
    try:
        header = read_header(raw, syntax)
    except Undecodable:
        return None
    uids = (
        header.sop_class_uid,
        header.sop_instance_uid,
        header.study_instance_uid,
        header.series_instance_uid,
    )
    return tuple(str(one) for one in uids)


def _nested(depth: int, *, undefined: bool) -> Dataset:
    instance = make_series(slices=1)[0]
    inner = instance
    for _ in range(depth):
        item = Dataset()
        item.CodeValue = "x"
        item.is_undefined_length_sequence_item = undefined
        inner.ReferencedImageSequence = Sequence([item, Dataset()])
        inner["ReferencedImageSequence"].is_undefined_length = undefined
        inner = item
    return instance


def _encoded(instance: Dataset, syntax: str) -> bytes:
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    raw = encode(instance, is_implicit_vr=implicit, is_little_endian=little)
    assert raw is not None
    return raw


def _files(shared_data: Path) -> Iterator[tuple[Path, bytes, str]]:
    """Every real and hostile file: its data set, and the transfer syntax that it came with."""
    for folder in ("dicom", "hostile"):
        for path in sorted((shared_data / folder).rglob("*")):
            if not path.is_file():
                continue
            raw = path.read_bytes()
            offset = data_set_offset(raw)
            try:
                syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
            except Exception:  # hostile: pydicom raises almost anything
                syntax = str(ExplicitVRLittleEndian if offset else ImplicitVRLittleEndian)
            if syntax != DeflatedExplicitVRLittleEndian:
                yield path, raw[offset:], syntax


def test_every_real_and_hostile_file_gets_pydicoms_verdict(
    shared_data: Path, tmp_path: Path
) -> None:
    wrong = [
        path.name
        for path, raw, syntax in _files(shared_data)
        if _ours(raw, syntax, tmp_path / "x") != _pydicoms(raw, syntax)
    ]
    assert wrong == []


def test_truncations_are_never_taken_where_pydicom_refuses(
    shared_data: Path, tmp_path: Path
) -> None:
    """And the other way round only where less than the header of an element is left over."""
    chance = random.Random(7)
    checked = 0
    for path, raw, syntax in list(_files(shared_data))[::9]:
        for _ in range(6):
            most = len(raw) if chance.random() < 0.5 else min(len(raw), 4000)
            cut = raw[: chance.randrange(most + 1)]
            ours, theirs = _ours(cut, syntax, tmp_path / "x"), _pydicoms(cut, syntax)
            if ours != theirs:
                assert ours is None, path
                shorter = [cut[:-n] for n in range(1, 12)]
                assert any(_ours(one, syntax, tmp_path / "x") == theirs for one in shorter), path
            checked += 1
    assert checked > 400


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("undefined", [False, True])
def test_nested_sequences_are_walked_and_each_cut_is_found(
    tmp_path: Path, syntax: str, undefined: bool
) -> None:
    raw = _encoded(_nested(5, undefined=undefined), syntax)
    assert _ours(raw, syntax, tmp_path / "x") == _pydicoms(raw, syntax) is not None
    whole = {_ours(raw[:end], syntax, tmp_path / "x") is not None for end in range(len(raw) - 20)}
    pixel_data = raw.rindex(struct.pack(">HH" if syntax == PLAIN[2] else "<HH", 0x7FE0, 0x0010))
    assert _ours(raw[:pixel_data], syntax, tmp_path / "x") is not None  # as pydicom: no way to know
    assert whole == {False, True}


def test_fragments_of_pixel_data_must_be_whole_and_delimited(tmp_path: Path) -> None:
    instance = make_series(slices=1)[0]
    instance.PixelData = encapsulate([b"\xff\x4f" * 500, b"\xff\x4f" * 300])
    instance["PixelData"].VR = "OB"
    instance["PixelData"].is_undefined_length = True
    raw = _encoded(instance, JPEG2000Lossless)
    assert _ours(raw, JPEG2000Lossless, tmp_path / "x") is not None
    for missing in (1, 8, 9, 100, 700):
        assert _ours(raw[:-missing], JPEG2000Lossless, tmp_path / "x") is None


@pytest.mark.parametrize("behind", [True, False])
def test_a_uid_that_two_readers_would_read_in_two_ways_is_refused(
    tmp_path: Path, behind: bool
) -> None:
    instance = make_series(slices=1)[0]
    if behind:
        del instance.SeriesInstanceUID
    raw = _encoded(instance, ExplicitVRLittleEndian)
    again = struct.pack("<HH2sH", 0x0020, 0x000E, b"UI", 6) + b"1.2.66"
    assert _ours(raw + again, ExplicitVRLittleEndian, tmp_path / "x") is None


@pytest.mark.parametrize("vr", [b"UA", b"TI", b"U\0", b"U\xff", b"LO"])
@pytest.mark.parametrize("tag", [(0x0020, 0x000E), (0x0008, 0x0018)])
def test_a_uid_with_another_vr_is_refused(tmp_path: Path, vr: bytes, tag: tuple[int, int]) -> None:
    raw = _encoded(make_series(slices=1)[0], ExplicitVRLittleEndian)
    head = struct.pack("<HH2s", *tag, b"UI")
    assert raw.count(head) == 1
    spoilt = raw.replace(head, struct.pack("<HH2s", *tag, vr))
    assert _ours(spoilt, ExplicitVRLittleEndian, tmp_path / "x") is None


@pytest.mark.parametrize("text", [b"CS\x0a\0ISO_IR\x00100", b"LO\x0a\0ISO_IR 100"])
def test_a_character_set_that_is_no_text_is_refused(tmp_path: Path, text: bytes) -> None:
    raw = _encoded(make_series(slices=1)[0], ExplicitVRLittleEndian)
    odd = struct.pack("<HH", 0x0008, 0x0005) + text
    raw = raw[raw.index(struct.pack("<HH", 0x0008, 0x0016)) :]
    assert _ours(odd + raw, ExplicitVRLittleEndian, tmp_path / "x") is None


def test_a_million_empty_items_and_endless_depth_end_soon(tmp_path: Path) -> None:
    head = _encoded(make_series(slices=1)[0], ExplicitVRLittleEndian)
    sequence = struct.pack("<HH2sHL", 0x9999, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    began = time.monotonic()
    deep = head + (sequence + item) * 100_000
    assert _ours(deep, ExplicitVRLittleEndian, tmp_path / "x") is None
    many = head + sequence + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 3_000_000
    assert _ours(many, ExplicitVRLittleEndian, tmp_path / "x") is None
    assert time.monotonic() - began < 20


def _items(each: bytes, count: int) -> bytes:
    """A sequence of items, no length stated anywhere."""
    begin = struct.pack("<HH2sHL", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + each
    end = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return begin + (item + end[:8]) * count + end[8:]


def test_an_enhanced_object_of_10_000_frames_is_walked_whatever_is_in_each(tmp_path: Path) -> None:
    """25 functional groups of six elements in each frame, all of undefined length."""
    instance = make_series(slices=1)[0]
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 0)
    del instance.PixelData
    group = b"".join(struct.pack("<HH2sHH", 0x0018, n, b"US", 2, n) for n in range(6))
    frame = _items(group, 1) * 25
    raw = _encoded(instance, ExplicitVRLittleEndian) + _items(frame, 10_000) + pixels
    assert _ours(raw, ExplicitVRLittleEndian, tmp_path / "x") is not None


def test_walks_that_never_end_do_not_keep_a_long_one_from_its_end(tmp_path: Path) -> None:
    instance = make_series(slices=1)[0]
    del instance.PixelData
    head = _encoded(instance, ExplicitVRLittleEndian)
    sizes = {"endless 1": 500_000, "endless 2": 500_000, "long": 15_000}
    for name, count in sizes.items():
        (tmp_path / name).write_bytes(head + _items(b"", count))
    ended: list[str] = []

    def walk(name: str) -> None:
        with (tmp_path / name).open("rb") as file:
            size = (tmp_path / name).stat().st_size
            data_set.identity(file.fileno(), 0, size, ExplicitVRLittleEndian)
        ended.append(name)

    endless = [threading.Thread(target=walk, args=(name,)) for name in list(sizes)[:2]]
    for one in endless:
        one.start()
    time.sleep(0.3)
    walk("long")
    for one in endless:
        one.join()
    assert ended[0] == "long"
