"""Result files: written beside, fsynced, renamed, so that a result is whole or not there."""

from pathlib import Path

from node.core.errors import Fatal
from node.core.job import Job
from node.core.names import JobId
from node.dicom.inbox import make_folder_durably, write_durably


class Outbox:
    """The result files of one data folder: results/JOB/SOP_UID.dcm."""

    def __init__(self, data_dir: Path) -> None:
        self._results = data_dir / "results"
        make_folder_durably(self._results)

    def write(self, job: Job, segmentation: bytes) -> Path:
        """Keeps the result of a Job, in the place of one that an earlier attempt left."""
        path = self._path(job)
        make_folder_durably(path.parent)
        path.with_suffix(".part").unlink(missing_ok=True)
        write_durably(path, segmentation)
        return path

    def files(self, job: Job) -> list[Path]:
        """What is to be delivered for a Job. Raises Fatal where it is gone."""
        path = self._path(job)
        if not path.exists():
            raise Fatal(
                f"the result {path} is gone; run the Job again: segnode jobs rerun {job.id}"
            )
        return [path]

    def _path(self, job: Job) -> Path:
        return self._folder(job.id) / f"{job.result_uids.sop_instance_uid}.dcm"

    def _folder(self, job_id: JobId) -> Path:
        return self._results / str(job_id)
