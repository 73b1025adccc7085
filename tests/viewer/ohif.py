"""The OHIF viewer in a browser: what a radiologist sees of a study at the PACS."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from tests.peers import Orthanc, eventually
from tests.viewer.chromium import Chromium
from tests.viewer.picture import Picture
from tests.viewer.site import Site

# Generous: two cores that others use, too, draw all of it in software.
PATIENCE_SECONDS = 90.0

_VIEWPORT = (
    "services.cornerstoneViewportService.getCornerstoneViewport("
    "services.viewportGridService.getActiveViewportId())"
)
_NAMES = "[...document.querySelectorAll('[data-cy=data-row-title]')].map(e => e.innerText)"


class Ohif:
    """One viewer on one PACS, for one study after the other."""

    def __init__(self, folder: Path, pacs: Orthanc, size: tuple[int, int] = (1280, 800)) -> None:
        self._chromium = Chromium(folder, *size)
        self._site = Site(pacs.http_port)

    def start(self) -> None:
        self._site.start()
        self._chromium.start()

    def stop(self) -> None:
        self._chromium.stop()
        self._site.stop()

    def open(self, segmentation: Dataset) -> None:
        """Its study, then itself by a double click; returns when its segments are listed."""
        self._chromium.open(
            f"{self._site.url}/viewer?StudyInstanceUIDs={segmentation.StudyInstanceUID}"
        )
        self._look(f"{_VIEWPORT}?.getCurrentImageId?.()", "image")
        self._double_click(self._look(_thumbnail_of(segmentation), "thumbnail of the SEG"))
        self._press("panelSegmentation-btn")
        self._look(f"{_NAMES}.length >= {len(segmentation.SegmentSequence)}", "list of segments")
        # OHIF 3.13 turns a sagittal or coronal view by 90° when a SEG is loaded; this undoes it.
        self._press("Reset-btn")

    def segment_names(self) -> list[str]:
        """Of the segmentation panel, from top to bottom."""
        names: list[str] = self._chromium.evaluate(_NAMES)
        return names

    def picture(self, sop_instance_uid: str) -> Picture:
        """The slice that is this Instance, when it stays as it is."""
        wanted = json.dumps(f"/instances/{sop_instance_uid}/")
        index = self._chromium.evaluate(
            f"{_VIEWPORT}.getImageIds().findIndex(id => id.includes({wanted}))"
        )
        assert index >= 0, f"{sop_instance_uid} is not in the viewport"
        self._chromium.evaluate(f"{_VIEWPORT}.setImageIdIndex({index}).then(() => null)")
        self._look(f"{_VIEWPORT}.getCurrentImageId().includes({wanted})", "slice")
        return Picture(self._settled_canvas())

    def page(self) -> NDArray[np.uint8]:
        """All of it, (row, column, RGB)."""
        return self._chromium.screenshot()

    def _settled_canvas(self) -> NDArray[np.uint8]:
        before: list[str] = [""]

        def look() -> str | None:
            last, now = before[0], self._chromium.evaluate(f"{_VIEWPORT}.canvas.toDataURL()")
            before[0] = now
            return str(now) if now == last else None

        address = eventually(look, PATIENCE_SECONDS, "picture that stays", every=0.3)
        png = base64.b64decode(address.split(",")[1])
        return np.asarray(Image.open(BytesIO(png)).convert("RGB"))

    def _double_click(self, element: str) -> None:
        self._chromium.evaluate(  # by its id: its place changes while others appear
            f"document.getElementById({json.dumps(element)})"
            ".dispatchEvent(new MouseEvent('dblclick', { bubbles: true }))"
        )

    def _press(self, button: str) -> None:
        self._chromium.evaluate(f"document.querySelector('[data-cy={button}]').click()")

    def _look(self, script: str, what: str) -> Any:
        """Waits for a true value of a script, which may fail while the page is loading."""
        guarded = f"(() => {{ try {{ return {script} }} catch (e) {{ return null }} }})()"
        try:
            return eventually(
                lambda: self._chromium.evaluate(guarded), PATIENCE_SECONDS, what, every=0.25
            )
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self._chromium.console])) from error


def _thumbnail_of(segmentation: Dataset) -> str:
    """A script for the id of the element on the page."""
    uid = json.dumps(str(segmentation.SeriesInstanceUID))
    return (
        "(() => { const one = services.displaySetService.getActiveDisplaySets()"
        f".find(one => one.SeriesInstanceUID === {uid});"
        " const id = `thumbnail-${one.displaySetInstanceUID}`;"
        " return document.getElementById(id) && id })()"
    )
