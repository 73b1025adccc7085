"""Truncated series from real senders, with a source that can be asked and without.

None is ever called proven; where the source can be asked, none is segmented; the rest supersedes.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association

from tests.peers import NodeProcess, Orthanc, StallingProxy, eventually, storescu, tool
from tests.series_factory import make_series, write_series

SLICES = 40
TIMES = "settle_seconds = 1.0\nlast_limit_seconds = 7.0"
QUIET_SECONDS = 3.0


@pytest.fixture(scope="module", params=[False, True], ids=["nobody to ask", "the source is asked"])
def node(
    request: pytest.FixtureRequest, orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NodeProcess]:
    running = NodeProcess(
        tmp_path_factory.mktemp("node"),
        pacs_port=orthanc.dicom_port,
        quiet_seconds=QUIET_SECONDS,
        closing=TIMES,
        query=request.param,
    )
    running.start()
    yield running
    running.stop()


only_where_a_peer_counts = pytest.mark.parametrize(
    "node", [True], indirect=True, ids=["queryable"], scope="module"
)


@pytest.fixture
def asked(node: NodeProcess) -> bool:
    return "query = true" in node.config.read_text()


@pytest.fixture
def series(
    request: pytest.FixtureRequest, orthanc: Orthanc, tmp_path: Path, asked: bool
) -> list[Dataset]:
    """A whole series, which the PACS has; nothing in its headers counts."""
    made = make_series(slices=SLICES, rows=64, columns=64, name=request.node.name)
    folder = write_series(made, tmp_path / "whole")
    assert storescu(folder, orthanc.dicom_port, called="ORTHANC").returncode == 0
    return made


@contextmanager
def _association(port: int) -> Iterator[Association]:
    ae = AE(ae_title="MODALITY")
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="SEGNODE")
    assert association.is_established
    yield association


def _store(association: Association, instances: Sequence[Dataset]) -> None:
    for one in instances:
        assert association.send_c_store(one).Status == 0x0000


def _send(port: int, instances: Sequence[Dataset]) -> None:
    with _association(port) as association:
        _store(association, instances)
        association.release()


def _story(node: NodeProcess, series: Sequence[Dataset]) -> dict[str, Any]:
    (story,) = node.json("jobs", "explain", str(series[0].SeriesInstanceUID))
    assert isinstance(story, dict)
    return story


def _closed(node: NodeProcess, series: Sequence[Dataset]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        story = _story(node, series)
        return story if story["closed_at"] else None

    return eventually(look, 30, "closed Series", every=0.3)


def _abort(node: NodeProcess, series: Sequence[Dataset], _folder: Path) -> None:
    with _association(node.port) as association:
        _store(association, series[:20])
        association.abort()


def _cut(node: NodeProcess, series: Sequence[Dataset], folder: Path) -> None:
    """The cable is cut in the middle of a PDU: the sender's process dies."""
    proxy = StallingProxy(node.port)
    proxy.pass_bytes = 170_000  # of about 350,000
    files = write_series(list(series), folder / "cut")
    sender = subprocess.Popen(
        [
            tool("storescu"), "-aet", "MODALITY", "-aec", "SEGNODE",
            "+sd", "127.0.0.1", str(proxy.port), str(files),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TCP_NODELAY": "1"},
    )  # fmt: skip
    assert proxy.stalled.wait(30)
    sender.kill()
    sender.wait(10)
    proxy.close()


def _fall_silent(node: NodeProcess, series: Sequence[Dataset], _folder: Path) -> None:
    with _association(node.port) as association:
        _store(association, series[:20])
        time.sleep(QUIET_SECONDS + 1.0)
        association.abort()


def test_check_says_whether_the_source_lets_us_ask(node: NodeProcess, asked: bool) -> None:
    told = node.run("check", check=False).stdout
    assert ("answers C-FIND" in told.replace("\n", " ")) is asked


@pytest.mark.parametrize("ending", [_abort, _cut, _fall_silent])
def test_a_series_whose_association_did_not_end_well_is_not_segmented(
    ending: Any, node: NodeProcess, asked: bool, series: list[Dataset], tmp_path: Path
) -> None:
    ending(node, series, tmp_path)
    story = _closed(node, series)
    assert 0 < story["instances"] < SLICES
    assert story["verdict"] == "unproven"
    assert story["jobs"] == []
    assert "came over an association that is" in story["closed_on"]
    if asked:
        assert f"pacs counts {SLICES} and {story['instances']} are here" in story["routing"]


def test_half_a_series_is_never_proven_and_the_rest_supersedes_it(
    node: NodeProcess, asked: bool, series: list[Dataset]
) -> None:
    _send(node.port, series[:20])
    half = _closed(node, series)
    assert half["verdict"] == ("unproven" if asked else "consistent")
    assert len(half["jobs"]) == (0 if asked else 1)
    if asked:
        assert "missing here: InstanceNumber 21" in half["routing"]
        (count,) = half["evidence"]["counts"]
        assert (count["peer"], count["instances"], count["missing_count"]) == ("pacs", 40, 20)
        assert len(count["missing"]) == 20
    _send(node.port, series[20:])

    def whole() -> dict[str, Any] | None:
        story = _story(node, series)
        return story if story["instances"] == SLICES and story["closed_at"] else None

    story = eventually(whole, 30, "whole Series", every=0.3)
    assert story["verdict"] in ("consistent", "proven")
    last = story["jobs"][-1]
    assert last["supersedes"] == (None if asked else half["jobs"][0]["id"])
    assert [job["state"] for job in story["jobs"][:-1]] in (
        [],
        ["CANCELLED"],
        ["REJECTED"],
        ["DELIVERED"],
    )


@only_where_a_peer_counts
def test_the_second_half_before_a_limit_is_over_is_one_job(
    node: NodeProcess, series: list[Dataset]
) -> None:
    _send(node.port, series[:20])
    time.sleep(QUIET_SECONDS + 1.0)  # longer than the quiet period
    assert _story(node, series)["closed_at"] is None
    _send(node.port, series[20:])
    story = _closed(node, series)
    assert story["instances"] == SLICES
    assert len(story["jobs"]) == 1


@only_where_a_peer_counts
def test_a_pacs_that_has_only_half_itself_proves_nothing_by_that(
    node: NodeProcess, orthanc: Orthanc, tmp_path: Path
) -> None:
    made = make_series(slices=SLICES, rows=64, columns=64, name="forwarded")
    for number in range(0, 20, 2):  # it forwards as it receives
        folder = write_series(made[number : number + 2], tmp_path / str(number))
        assert storescu(folder, orthanc.dicom_port, called="ORTHANC").returncode == 0
        _send(node.port, made[number : number + 2])
    story = _closed(node, made)
    assert story["verdict"] == "consistent"
    assert "pacs counts 20 and 20 are here: it may be receiving still" in story["closed_on"]


@only_where_a_peer_counts
def test_a_slice_that_was_refused_here_is_missing_and_explain_says_who_refused_it(
    node: NodeProcess, series: list[Dataset]
) -> None:
    with _association(node.port) as association:
        _store(association, [*series[:6], *series[7:]])
        series[6].StudyInstanceUID = ""
        assert association.send_c_store(series[6]).Status == 0xC000
        association.release()
    uid = str(series[6].SOPInstanceUID)

    def told() -> str | None:
        text = node.run("jobs", "explain", str(series[0].SeriesInstanceUID)).stdout
        return text if "missing InstanceNumber" in text else None

    text = eventually(told, 30, "the missing slice", every=0.3)
    assert f"missing InstanceNumber 7 ({uid}): refused here, StudyInstanceUID is missing" in text
    story = _closed(node, series)
    assert (story["jobs"], story["verdict"]) == ([], "unproven")
    assert "an instance of one of its associations was refused here" in story["routing"]
