"""docs/benchmarks.md: one section per part of the bench; a part that was not run keeps its own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields

from bench import machine
from bench.figure import Section

_TITLE = """# Benchmarks

Written by `make bench`. Medians of several runs on one machine; the machine is
shared and noisy, so compare what stands in one table.
"""


def rewritten(page: str, sections: Mapping[str, str], order: Sequence[str]) -> str:
    """The page with these sections (text by heading) in place of those of the same heading."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)[1:]
    kept = {
        heading: text.strip("\n") for heading, text in zip(parts[::2], parts[1::2], strict=True)
    }
    found = {**kept, **sections}
    return "\n".join(
        [_TITLE, *(f"## {heading}\n\n{found[heading]}\n" for heading in order if heading in found)]
    )


def text(section: Section, command: str) -> str:
    """The section below its heading: where its figures come from, and its table."""
    names = [field.name for field in fields(section.rows[0])]
    return "\n".join(
        [
            f"- Command: `{command}`",
            f"- Machine: {machine.machine()}",
            f"- Versions: {machine.versions()}",
            *(f"- {note}" for note in section.notes),
            "",
            f"| {' | '.join(names)} |",
            f"|{'---|' * len(names)}",
            *(f"| {' | '.join(astuple(row))} |" for row in section.rows),
        ]
    )
