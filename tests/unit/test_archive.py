"""Zips from anywhere: what is hostile or broken is refused, and nothing of it is left."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from node.inference.adding.add import add_model
from tests.adding import refusal, zipped
from tests.model_factory import make_model_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds one trained model folder of two folds."""
    home = tmp_path_factory.mktemp("results")
    make_model_folder(home / "Dataset1_Two" / "Trainer__Plans__3d_fullres", folds=("0", "1"))
    return home


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "node" / "models"


def _link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("plans.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def _bomb(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("plans.json")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w") as file:
        for _ in range(65):
            file.write(b" " * 2**20)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda archive: archive.writestr("/plans.json", "{}"), "leads out of it"),
        (lambda archive: archive.writestr("a/../../plans.json", "{}"), "leads out of it"),
        (lambda archive: archive.writestr("..\\plans.json", "{}"), "leads out of it"),
        (lambda archive: archive.writestr("c:plans.json", "{}"), "leads out of it"),
        (_link, "is a link or a device"),
        (_bomb, "claims 68157440 bytes"),
    ],
)
def test_a_hostile_zip_is_refused_before_anything_is_unpacked(
    tmp_path: Path, models: Path, write: Callable[[zipfile.ZipFile], None], said: str
) -> None:
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w") as archive:
        write(archive)
    message = refusal(path, models)
    assert "refused, nothing was unpacked" in message
    assert said in message


def _overwritten(path: Path, at: int, by: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(by)] = by
    path.write_bytes(content)


def _member(path: Path, name: str) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return next(one for one in archive.infolist() if one.filename.endswith(name))


LOCAL_NAME = 30  # where it begins in a member's local header, APPNOTE 4.3.7


@pytest.mark.parametrize("packed_by", [zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_what_does_not_unpack_is_damaged_and_not_taken_for_a_full_disk(
    made: Path, models: Path, tmp_path: Path, packed_by: int
) -> None:
    path = zipped(made, tmp_path / "export.zip", packed_by)
    member = _member(path, "plans.json")
    start = member.header_offset + LOCAL_NAME + len(member.filename)
    _overwritten(path, start, b"\xff" * member.compress_size)
    assert "plans.json' is damaged: " in refusal(path, models)


def test_a_local_name_that_is_no_text_is_damage(made: Path, models: Path, tmp_path: Path) -> None:
    path = zipped(made, tmp_path / "export.zip", below="é/")
    _overwritten(path, _member(path, "plans.json").header_offset + LOCAL_NAME, b"\xff\xff")
    assert "is damaged: 'utf-8' codec can't decode" in refusal(path, models)


def test_a_member_without_a_name_is_refused(made: Path, models: Path, tmp_path: Path) -> None:
    path = zipped(made, tmp_path / "export.zip")
    _overwritten(path, path.read_bytes().rfind(b"Dataset1_Two"), b"\0")  # ends a name
    assert "refused, nothing was unpacked: a member has no name" in refusal(path, models)


def test_a_file_with_the_name_of_the_folder_is_passed_over(
    made: Path, models: Path, tmp_path: Path
) -> None:
    path = zipped(made / "Dataset1_Two", tmp_path / "export.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("Trainer__Plans__3d_fullres", "x")
        archive.writestr(".", "x")
    assert add_model(path, models, "m").model.folds == ("0", "1")


def _patched(path: Path, member: str, at: int, value: bytes) -> Path:
    """Overwrites bytes of a member's entry in the central directory, APPNOTE 4.3.12."""
    content = bytearray(path.read_bytes())
    start = content.rfind(b"PK\x01\x02", 0, content.rfind(member.encode()))
    content[start + at : start + at + len(value)] = value
    path.write_bytes(content)
    return path


FLAGS, SIZE = 8, 24  # general purpose bit flag; uncompressed size, 4 bytes


def test_an_encrypted_member_is_refused(made: Path, models: Path, tmp_path: Path) -> None:
    path = zipped(made, tmp_path / "export.zip")
    _patched(path, "fold_1/checkpoint_final.pth", FLAGS, b"\x01\x00")
    assert "is encrypted" in refusal(path, models)


def test_no_more_is_written_than_a_member_claims(made: Path, models: Path, tmp_path: Path) -> None:
    path = zipped(made, tmp_path / "export.zip")
    _patched(path, "fold_1/checkpoint_final.pth", SIZE, b"\x64\0\0\0")
    assert "is damaged: Bad CRC-32" in refusal(path, models)


def test_a_zip_that_claims_more_than_any_model_has_is_refused(tmp_path: Path, models: Path) -> None:
    path = tmp_path / "bomb.zip"
    members = ["plans.json", "dataset.json"]
    members += [f"fold_{fold}/checkpoint_final.pth" for fold in range(17)]
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "{}")
    for member in members[2:]:
        _patched(path, member, SIZE, b"\xfe\xff\xff\xff")
    assert "the model claims 73014444002 bytes, over 68719476736" in refusal(path, models)


def test_a_damaged_zip_is_named(made: Path, models: Path, tmp_path: Path) -> None:
    path = zipped(made, tmp_path / "export.zip")
    content = bytearray(path.read_bytes())
    content[content.find(b"fold_0/checkpoint_final.pth") + 5000] ^= 0xFF
    path.write_bytes(content)
    assert "is damaged: Bad CRC-32" in refusal(path, models)


def test_a_name_that_is_in_the_zip_twice_is_refused(tmp_path: Path, models: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("plans.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("plans.json", "{ }")
    assert "is in it twice" in refusal(tmp_path / "twice.zip", models)
