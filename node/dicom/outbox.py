"""Result files: written beside, fsynced, renamed, so that a result is whole or not there."""

from collections.abc import Mapping, Sequence
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
        """Where these objects of a Job lie; some may be gone."""
        return [self._path(job_id, uid) for uid in uids]

    def gone(self, job_id: JobId, uids: Sequence[SOPInstanceUID]) -> Mapping[SOPInstanceUID, str]:
        """Those whose files were deleted, and in words what to do."""
        paths = {uid: self._path(job_id, uid) for uid in uids}
        return {
            uid: f"the result {path} is gone; run the Job again: segnode jobs rerun {job_id}"
            for uid, path in paths.items()
            if _is_gone(path)
        }

    def require(self, job_id: JobId, uids: Sequence[SOPInstanceUID]) -> None:
        """Raises Fatal where a file of these objects is gone."""
        for words in self.gone(job_id, uids).values():
            raise Fatal(words)

    def _path(self, job_id: JobId, uid: SOPInstanceUID) -> Path:
        return self._results / str(job_id) / f"{uid}.dcm"


def _is_gone(path: Path) -> bool:
    """Not so where the disk does not say: whoever reads the file learns why."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
