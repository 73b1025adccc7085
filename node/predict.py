"""The pipeline without a network: a folder of DICOM files in, SEG files out."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from pydicom import dcmread

from node import pipeline
from node.core.errors import Fatal, SegnodeError
from node.core.model import Engine, Model
from node.core.names import SeriesInstanceUID
from node.core.result import Identity, Wants
from node.core.uids import input_fingerprint
from node.core.volume import LabelMap
from node.dicom.inbox import read_files
from node.dicom.results.make import make_objects
from node.dicom.scu.instance import NotSendable, dicom_files, opened

Found = tuple[SeriesInstanceUID, Sequence[Path]]  # a Series and its files


@dataclass(frozen=True)
class Prediction:
    """What became of one Series, the first of several channels.

    volumes_ml: by segment name. reason: why there is no result.
    """

    series_instance_uid: SeriesInstanceUID
    files: tuple[Path, ...] = ()
    volumes_ml: tuple[tuple[str, float], ...] = ()
    seconds: float = 0.0
    reason: str | None = None


def predict_folder(
    model: Model, engine: Engine, folder: Path, out: Path, *, nifti: bool
) -> Iterator[Prediction]:
    """Segments each Series of a folder (and the folders below). Raises Fatal where there is none.

    Writes OUT/SERIES_UID.seg.dcm, and OUT/SERIES_UID.nii.gz with `nifti`.
    """
    found = series_in(folder)
    if not found:
        raise Fatal(f"{folder}: there are no DICOM images in it")
    for one in found.items():
        yield predict_series(model, engine, [one], out, nifti=nifti)


def predict_series(
    model: Model, engine: Engine, channels: Sequence[Found], out: Path, *, nifti: bool
) -> Prediction:
    """Segments one Series, or those of a Model's channels in its order, named after the first."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    uid = channels[0][0]
    try:
        files, volumes = _predict(model, engine, channels, out, nifti)
    except SegnodeError as error:
        return Prediction(uid, reason=str(error))
    seconds = round(time.monotonic() - began, 2)
    return Prediction(uid, tuple(files), tuple(volumes), seconds)


def series_in(folder: Path, *, images_only: bool = True) -> dict[SeriesInstanceUID, list[Path]]:
    """The DICOM images below a folder by Series Instance UID; other files are passed over.

    Without `images_only` other objects than images count, too: reports, presentation states.
    """
    series: dict[SeriesInstanceUID, list[Path]] = defaultdict(list)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = dcmread(path, stop_before_pixels=True)
            uid = str(header.SeriesInstanceUID or "")
        except Exception:  # no DICOM, or hostile bytes, which make pydicom raise almost anything
            continue
        if "Rows" in header or not images_only:
            series[SeriesInstanceUID(uid)].append(path)
    return dict(series)


def torn_files(folder: Path) -> list[tuple[Path, str]]:
    """The DICOM files below a folder that are cut off or no whole Instances, each with why.

    Cut off before their Rows they are passed over, and what names them elsewhere is a UID.
    """
    torn = []
    for path in dicom_files(folder):
        try:
            opened(path)
        except NotSendable as error:
            torn.append((path, str(error)))
    return torn


def complete_since(paths: Sequence[Path]) -> float:
    """When the Series became whole on this disk: the time of its newest file, since the epoch.

    For a Segmentation's dates it stands where the node has the time when a Series was closed, so
    that the same files give the same bytes under the same SOP Instance UID. The headers' own
    dates would, too, but would say that the result was made with the images, years ago.
    """
    return max(path.stat().st_mtime for path in paths)


def _predict(
    model: Model,
    engine: Engine,
    channels: Sequence[Found],
    out: Path,
    nifti: bool,
) -> tuple[list[Path], list[tuple[str, float]]]:
    sources = [read_files(uid, paths) for uid, paths in channels]
    fingerprint = input_fingerprint(source.sha256_by_sop for source in sources)
    dated = complete_since([path for _, paths in channels for path in paths])
    unwatched = pipeline.Unwatched()
    labelled = pipeline.label(sources, model, engine, unwatched)
    identity = Identity(fingerprint, model.fingerprint)
    answer = pipeline.answer_of(labelled, sources[0], model, identity, dated)
    name = _file_name(*channels[0])
    files = []
    for one in make_objects(answer, [Wants()], unwatched.enter):
        files.append(out / f"{name}.{one.ref.kind.lower()}.dcm")
        files[-1].write_bytes(one.content)
    if nifti:
        files.append(out / f"{name}.nii.gz")
        write_nifti(answer.predicted, files[-1])
    volumes = [(s.label, answer.label_map.volume_ml(s.number)) for s in model.segments]
    return files, volumes


def _file_name(uid: SeriesInstanceUID, paths: Sequence[Path]) -> str:
    is_uid = 0 < len(uid) <= 64 and set(uid) <= set("0123456789.") and uid.strip(".") == uid
    return str(uid) if is_uid else hashlib.sha256(str(paths[0]).encode()).hexdigest()[:16]


def write_nifti(label_map: LabelMap, path: Path) -> None:
    """A LabelMap as NIfTI on the same grid. SimpleITK's axes (x, y, z) are (column, row, slice)."""
    image = sitk.GetImageFromArray(label_map.array)
    columns = label_map.affine[:3, [2, 1, 0]]
    spacing = [float((column @ column) ** 0.5) for column in columns.T]
    image.SetSpacing(spacing)
    image.SetOrigin([float(value) for value in label_map.affine[:3, 3]])
    image.SetDirection([float(value) for value in (columns / spacing).ravel()])
    sitk.WriteImage(image, str(path), useCompression=True)
