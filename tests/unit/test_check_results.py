"""`segnode check`: what is written about results, and about who may send, and has no effect."""

from pathlib import Path

import pytest

from node.check_results import without_effect
from node.configured.receiving import accepted_titles, why_nobody
from node.core import config
from node.core.config import Config

CONFIG = """
[peers.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[models.hippocampus]
path = "models/hippocampus"
[[routes]]
name = "brain"
model = "hippocampus"
send_to = ["pacs"]
"""
NONE = '[peers.pacs.results]\nsegmentation = "none"\n'


def _loaded(folder: Path, text: str) -> Config:
    path = folder / "node.toml"
    path.write_text(text)
    return config.load(path)


@pytest.mark.parametrize(
    ("results", "sentences"),
    [
        ("", []),
        (NONE, ["a route sends to it, and it gets nothing"]),
        (NONE + "report = false", ["a route sends to it, and it gets nothing"]),
        (NONE + "structure_set = true", []),
        (NONE + "refusal_report = true", []),
        (
            NONE + 'capture = true\nmax_frames = 9\ncompression = "rle"',
            ['its results: without effect, as segmentation = "none": max_frames, compression'],
        ),
    ],
)
def test_results_that_leave_nothing_and_settings_without_effect_are_noted(
    tmp_path: Path, results: str, sentences: list[str]
) -> None:
    found = list(without_effect(_loaded(tmp_path, CONFIG + results)))
    assert {(one.verdict, one.subject) for one in found} <= {("note", "peer pacs")}
    assert len(found) == len(sentences)
    assert all(one.sentence.startswith(s) for one, s in zip(found, sentences, strict=True))


def test_a_peer_that_no_route_sends_to_may_get_nothing(tmp_path: Path) -> None:
    text = CONFIG + NONE + '[peers.b]\nurl = "http://h/"\n'
    assert not list(without_effect(_loaded(tmp_path, text.replace('["pacs"]', '["b"]'))))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[peers.a]\nurl = "http://h/"', "no peer has an ae_title"),
        ("", "there are no peers"),
        ("[dicom]\naccept_from = []", "dicom.accept_from is empty"),
    ],
)
def test_why_nobody_may_send_is_said_truly(tmp_path: Path, text: str, why: str) -> None:
    loaded = _loaded(tmp_path, text)
    assert accepted_titles(loaded) == set()
    assert why in why_nobody(loaded)
