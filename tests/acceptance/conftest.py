"""The PACS of the acceptance tests."""

from collections.abc import Iterator

import pytest

from tests.peers import Orthanc


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A fresh Orthanc for each file of tests."""
    peer = Orthanc(tmp_path_factory.mktemp("orthanc"))
    peer.start()
    yield peer
    peer.stop()
