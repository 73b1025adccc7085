"""Changes to data sets, for tests of who notices them."""

from collections.abc import Callable, Sequence
from copy import deepcopy

from pydicom import Dataset

from node.core.uids import derive_uid

Change = Callable[[Dataset], object]


def again(instances: Sequence[Dataset], name: str, change: Change) -> list[Dataset]:
    """The same slices as other Instances, changed."""
    copies = deepcopy(list(instances))
    for one in copies:
        one.SOPInstanceUID = derive_uid(name, one.SOPInstanceUID)
        change(one)
    return copies


def setting(**values: object) -> Change:
    def change(one: Dataset) -> None:
        for keyword, value in values.items():
            setattr(one, keyword, value)

    return change


def evidence_with(keyword: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
        setattr(study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0], keyword, "1.2.3")

    return change


def study_of_evidence(dataset: Dataset) -> None:
    dataset.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = "1.2.3"
