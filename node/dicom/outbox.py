"""Result files: written beside, fsynced, renamed, so that a result is whole or not there."""

from collections.abc import Sequence
from pathlib import Path

from node.core.errors import Fatal
from node.core.names import JobId, SOPInstanceUID
from node.dicom.inbox import make_folder_durably, write_durably
from node.dicom.results.answer import ResultObject


class Outbox:
    """The result files of one data folder: results/JOB/SOP_UID.dcm."""

    def __init__(self, data_dir: Path) -> None:
        self._results = data_dir / "results"
        make_folder_durably(self._results)

    def write(self, job_id: JobId, result: ResultObject, *, given: bool = False) -> Path:
        """Keeps an object of a Job, in the place of one that an earlier attempt left.

        given: a Peer may have it. Then the bytes that were sent stay, as their name is theirs: a
        newer version of the node, or another configuration, could make others.
        """
        path = self._path(job_id, result.ref.sop_instance_uid)
        if given and path.exists():
            return path
        make_folder_durably(path.parent)
        path.with_suffix(".part").unlink(missing_ok=True)
        write_durably(path, *result.pieces)
        return path

    def files(self, job_id: JobId, uids: Sequence[SOPInstanceUID]) -> list[Path]:
        """The files of these objects of a Job. Raises Fatal where one is gone."""
        paths = [self._path(job_id, uid) for uid in uids]
        for path in paths:
            if not path.exists():
                raise Fatal(
                    f"the result {path} is gone; run the Job again: segnode jobs rerun {job_id}"
                )
        return paths

    def _path(self, job_id: JobId, uid: SOPInstanceUID) -> Path:
        return self._results / str(job_id) / f"{uid}.dcm"
