"""Nobody but the node's user and group can read what the node keeps of patients."""

import os
from pathlib import Path

from tests.peers import DEMO_SERIES, NodeProcess, eventually, free_port, storescu


def test_all_that_the_node_makes_is_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0o022)  # as most machines have it
    node = NodeProcess(tmp_path / "node", pacs_port=free_port())
    try:
        node.start(ready=False)
        assert storescu(DEMO_SERIES, node.port).returncode == 0
        kept = node.data_dir / "instances"
        eventually(lambda: list(kept.rglob("*.dcm")), 30, "recorded instance")
        made = [node.data_dir, *node.data_dir.rglob("*")]
        modes = {str(path): path.stat().st_mode & 0o777 for path in made if path.exists()}
    finally:
        os.umask(before)
        node.stop()
    assert {name for name, mode in modes.items() if mode & 0o027} == set()
    assert any(name.endswith("segnode.sqlite") for name in modes)
