"""`python -m bench [PART …] [--quick]`: measures, and rewrites its sections of the page."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import accuracy, main_job, page, receiving, results, scale
from bench.figure import Section
from bench.inference import table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PARTS: dict[str, Callable[[Path, bool], Section]] = {
    "main-job": main_job.measure,
    "receiving": receiving.measure,
    "scale": scale.measure,
    "results": results.measure,
    "accuracy": accuracy.measure,
    "inference": table.measure,
}
HEADINGS = (  # in the page's order
    main_job.HEADING,
    receiving.HEADING,
    scale.HEADING,
    results.HEADING,
    accuracy.HEADING,
    table.HEADING,
)


def main() -> None:
    options = _options()
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            section = PARTS[name](Path(folder), options.quick)
        if not section.rows:
            continue
        text = page.text(section, f'make bench ARGS="{name}"')
        print(f"## {section.heading}\n\n{text}\n", flush=True)
        if not options.quick:
            _write({section.heading: text})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=list(PARTS), help="all of them, unless named")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the bench itself")
    return parser.parse_args()


def _write(sections: dict[str, str]) -> None:
    """After each part: an hour's figures are not lost to what comes after them."""
    written = page.rewritten(PAGE.read_text(encoding="utf-8"), sections, HEADINGS)
    beside = PAGE.with_suffix(".tmp")
    beside.write_text(written, encoding="utf-8")
    beside.replace(PAGE)


if __name__ == "__main__":
    main()
