from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

from node.core.anatomy import Code
from node.inference.adding.snomed import Row, guess, normalised, rows

ORGANS = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right
adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right
lung_middle_lobe_right lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum
colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1
"""
THE_REST = """
heart aorta pulmonary_vein brachiocephalic_trunk subclavian_artery_right subclavian_artery_left
common_carotid_artery_right common_carotid_artery_left brachiocephalic_vein_left
brachiocephalic_vein_right atrial_appendage_left superior_vena_cava inferior_vena_cava
portal_vein_and_splenic_vein iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right
humerus_left humerus_right scapula_left scapula_right clavicula_left clavicula_right femur_left
femur_right hip_left hip_right spinal_cord gluteus_maximus_left gluteus_maximus_right
gluteus_medius_left gluteus_medius_right gluteus_minimus_left gluteus_minimus_right autochthon_left
autochthon_right iliopsoas_left iliopsoas_right brain skull
"""
SPINE = [("L", 5), ("T", 12), ("C", 7)]
TOTAL = [  # TotalSegmentator v2, task "total", 117 classes
    *ORGANS.split(),
    *(f"vertebrae_{part}{number}" for part, count in SPINE for number in range(count, 0, -1)),
    *THE_REST.split(),
    *(f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)),
    "sternum",
    "costal_cartilages",
]
WITH_ITS_SIDE_IN_THE_CODE = {"lung_middle_lobe_right", "atrial_appendage_left"}
SCT: Any = concepts["SCT"]  # by keyword: {code: (meaning, context groups)}
GROUPS: Any = cid_concepts  # by context group: {scheme: keywords}
LEFT, RIGHT = Code("7771000", "SCT", "Left"), Code("24028007", "SCT", "Right")
BOTH = Code("51440002", "SCT", "Bilateral")


@pytest.fixture(scope="module")
def dictionary() -> dict[str, set[str]]:
    """SNOMED CT as DICOM uses it (PS3.16, by pydicom): meanings by code."""
    meanings = defaultdict[str, set[str]](set)
    for versions in SCT.values():
        for code, (meaning, _) in versions.items():
            meanings[code].add(meaning)
    return meanings


def codes(row: Row) -> Iterator[Code]:
    yield from (code for code in (row.category, row.type, row.region) if code)


def test_every_class_of_totalsegmentator_has_a_code() -> None:
    assert len(set(TOTAL)) == 117
    assert [name for name in TOTAL if guess(name) is None] == []


def test_what_has_a_side_in_its_name_has_its_laterality() -> None:
    for name in set(TOTAL) - WITH_ITS_SIDE_IN_THE_CODE:
        found = guess(name)
        assert found is not None
        words = name.split("_")
        wanted = LEFT if "left" in words else RIGHT if "right" in words else None
        assert found.laterality == wanted, name
    for name in WITH_ITS_SIDE_IN_THE_CODE:
        found = guess(name)
        assert found is not None
        assert found.laterality is None
        assert "left" in found.type.meaning.lower() or "right" in found.type.meaning.lower()


def test_the_classes_differ_but_in_their_side() -> None:
    counted = Counter(guess(name) for name in TOTAL)
    assert [found for found, count in counted.items() if count > 1] == []


def test_every_code_that_dicom_knows_has_dicoms_meaning(dictionary: dict[str, set[str]]) -> None:
    for row in rows():
        for code in codes(row):
            if code.value in dictionary:
                assert code.meaning in dictionary[code.value], code
    for side in (LEFT, RIGHT, BOTH):
        assert side.meaning in dictionary[side.value]


def test_the_source_of_every_code_is_said(dictionary: dict[str, set[str]]) -> None:
    for row in rows():
        known = row.type.value in dictionary
        assert known == (row.source == "PS3.16"), row
        assert row.source in ("PS3.16", "TotalSegmentator", "mCODE", "SNOMED CT")


def test_categories_are_those_of_context_group_7150() -> None:
    allowed = {code for name in GROUPS[7150]["SCT"] for code in SCT[name]}
    assert {row.category.value for row in rows()} <= allowed


def test_codes_are_numbers_with_their_check_digit() -> None:
    """SNOMED CT identifiers end in a Verhoeff check digit: a mistyped one shows."""
    for row in rows():
        for code in codes(row):
            assert _verhoeff(code.value) == 0, code


def test_a_name_stands_once_and_normalised() -> None:
    names = [name for row in rows() for name in (*row.names, *row.names_of_both)]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert [name for name in names if normalised(name) != name] == []


@pytest.mark.parametrize(
    ("label", "type_value", "laterality"),
    [
        ("Left-Hippocampus", "5366008", LEFT),
        ("KidneyRight", "64033007", RIGHT),
        ("R kidney", "64033007", RIGHT),
        ("LUNGS", "39607008", BOTH),
        ("kidney", "64033007", None),
        ("left atrium", "82471001", None),
        ("vertebrae_L1", "66794005", None),
        ("rib_left_1", "48535007", LEFT),
        ("subclavian_artery_left", "36765005", LEFT),
        ("tumour", "108369006", None),
    ],
)
def test_names_are_matched_without_case_signs_and_side(
    label: str, type_value: str, laterality: Code | None
) -> None:
    found = guess(label)
    assert found is not None
    assert (found.type.value, found.laterality) == (type_value, laterality)


@pytest.mark.parametrize(
    "label",
    ["", "left", "liver_left", "kidney left right", "kidneyish", "my kidney", "L", "class 1", "☃"],
)
def test_a_name_that_is_not_in_the_table_is_not_guessed(label: str) -> None:
    assert guess(label) is None


_TIMES = [  # the dihedral group of order 10
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
    [2, 3, 4, 0, 1, 7, 8, 9, 5, 6], [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
    [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
    [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
    [8, 7, 6, 5, 9, 3, 2, 1, 0, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
]  # fmt: skip
_ONCE = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def _verhoeff(number: str) -> int:
    check = 0
    for position, digit in enumerate(map(int, reversed(number))):
        for _ in range(position % 8):
            digit = _ONCE[digit]
        check = _TIMES[check][digit]
    return check
