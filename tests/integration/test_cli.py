"""What an administrator reads: open Series, what they wait for, plain sentences for slips."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.core.names import SeriesInstanceUID
from node.store import database
from tests import arrivals
from tests.command import CONFIG, run_in
from tests.series_factory import make_series
from tests.ward import LONG_ENOUGH, Ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    engine = database.connect(tmp_path)
    database.migrate(engine)
    (tmp_path / "node.toml").write_text(CONFIG)
    yield Ward(tmp_path, engine)
    engine.dispose()


def test_an_open_series_is_listed_with_what_it_waits_for(ward: Ward) -> None:
    arriving, gap = make_series(name="arriving"), make_series(name="gap")
    arrivals.keep(ward.inbox, arriving, None)
    arrivals.keep(ward.inbox, gap[:9] + gap[10:])
    ward.recording.step()
    text = run_in(ward.folder, "jobs", "list").stdout
    assert f"Series {arriving[0].SeriesInstanceUID} (MR)" in text
    assert "; 1 association open: more may come" in text
    assert "; unproven so far, closes in " in text
    assert "s if nothing more comes; unequal spacing" in text
    told = json.loads(run_in(ward.folder, "jobs", "list", "--open", "--json").stdout)
    assert {one["series_instance_uid"] for one in told} == {
        str(arriving[0].SeriesInstanceUID),
        str(gap[0].SeriesInstanceUID),
    }
    explained = run_in(ward.folder, "jobs", "explain", str(gap[0].SeriesInstanceUID)).stdout
    assert "InstanceNumber 10 is missing" in explained


def test_rerunning_an_open_series_says_that_it_is_open_and_what_it_waits_for(
    ward: Ward,
) -> None:
    series = make_series()
    arrivals.keep(ward.inbox, series)
    ward.recording.step()
    uid = str(series[0].SeriesInstanceUID)
    done = run_in(ward.folder, "jobs", "rerun", uid)
    assert done.returncode == 1
    assert f"Series {uid} is open, and is routed once it closes: consistent so far" in done.stderr
    unknown = run_in(ward.folder, "jobs", "rerun", "1.2.3")
    assert "1.2.3: no Series has this UID" in unknown.stderr


def test_the_reason_of_an_unproven_series_is_listed_once(ward: Ward) -> None:
    gap = make_series(name="gap")
    del gap[9]
    arrivals.keep(ward.inbox, gap)
    ward.step(LONG_ENOUGH)
    assert run_in(ward.folder, "jobs", "list").stdout.count("InstanceNumber 10 is missing") == 1
    uid = str(gap[0].SeriesInstanceUID)
    explained = run_in(ward.folder, "jobs", "explain", uid).stdout
    assert explained.count("InstanceNumber 10 is missing") == 2  # the finding, and the routing


def test_one_is_one(ward: Ward) -> None:
    (only,) = make_series(slices=1)
    arrivals.keep(ward.inbox, [only])
    ward.step(LONG_ENOUGH)
    job = ward.jobs.take_queued(time.time())
    assert job is not None
    text = run_in(ward.folder, "jobs", "list").stdout
    assert "  1 attempt  " in text
    uid = SeriesInstanceUID(str(only.SeriesInstanceUID))
    explained = run_in(ward.folder, "jobs", "explain", uid).stdout
    for words in ("received  1 instance from", "1 slice without a gap", "1 association released"):
        assert words in explained


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["jobs", "show", "foo"],
            "segnode: Invalid value for 'JOB': \"foo\" is not the number of a Job; see segnode "
            "jobs show --help",
        ),
        (["jobs", "shw"], "segnode: No such command 'shw'. Did you mean 'show'?; see segnode jobs"),
        (["serve", "--nope"], "segnode: No such option: --nope; see segnode serve --help"),
        (["echo"], "segnode: Missing argument 'peer'; see segnode echo --help"),
    ],
)
def test_a_slip_is_answered_with_one_plain_sentence(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = run_in(tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_help_is_help(tmp_path: Path) -> None:
    done = run_in(tmp_path, "jobs", "list", "--help")
    assert (done.returncode, "--unrouted" in done.stdout) == (0, True)
    assert "Usage: segnode" in run_in(tmp_path).stdout
