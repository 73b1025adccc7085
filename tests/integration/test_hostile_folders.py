"""Malformed files as folders: planes, candidates, volumes and `segnode predict` refuse or read."""

import resource
import subprocess
import sys
import time
from pathlib import Path

CODE = """
import resource, sys, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from pydicom import dcmread
from node.core.errors import SegnodeError
from node.core.model import InputRules
from node.dicom.assemble import admit, stack
from node.dicom.inbox import read_files
from node.dicom.planes import planes_of
from node.dicom.volumes import split
from node.dicom.voxels import modality_frames
from node.predict import series_in
from collections import Counter
folder = Path(sys.argv[1])
came, worst = Counter(), (0.0, "")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(p for p in folder.rglob("*") if p.is_file()):
    began = time.monotonic()
    try:
        header = dcmread(path, stop_before_pixels=True, force=True)
    except Exception:
        came["unreadable"] += 1
    else:
        split(planes_of(header))
        came["split"] += 1
    worst = max(worst, (time.monotonic() - began, path.name))
found = series_in(folder)
for uid, paths in found.items():
    for chosen in ([path] for path in paths):
        began = time.monotonic()
        try:
            source = read_files(uid, chosen)
            admit(source, InputRules())
            for instance in source.instances:
                for _ in modality_frames(instance, [0], "it"):
                    came["decoded"] += 1
            stack(source, InputRules(resample=True))
        except SegnodeError:
            came["refused"] += 1
        else:
            came["assembled"] += 1
        worst = max(worst, (time.monotonic() - began, chosen[0].name))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(dict(came), worst, grown // 1024)
assert worst[0] < 10, worst
assert came["split"] > 200 and came["refused"] > 100 and came["decoded"] > 100, came
assert grown < 400 * 1024, grown
"""


def test_every_hostile_file_is_read_or_refused_quickly_in_bounded_memory(
    shared_data: Path,
) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(shared_data / "hostile")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert time.monotonic() - began < 120
