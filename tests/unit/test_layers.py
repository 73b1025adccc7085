"""DESIGN: imports point down only, and each heavy library has one home."""

import ast
from pathlib import Path

NODE = Path(__file__).parents[2] / "node"
ROWS = [
    {"cli", "cli_jobs", "__main__", "app", "checks", "demo", "logs", "predict", "show"}
    | {
        "show_added",
        "show_sent",
        "check_peers",
        "finding",
        "terminal",
        "cli_routes",
        "cli_purge",
        "routed",
        "chosen",
        "check_results",
        "show_jobs",
    }
    | {"opened"},
    {"lanes"},
    {"configured", "judging", "pipeline", "ordering", "recording", "retention"},
    {"dicom", "inference", "store"},
    {"core"},
]
HOMES = {
    "torch": "inference",
    "nnunetv2": "inference",
    "pynetdicom": "dicom",
    "highdicom": "dicom",
    "dicomweb_client": "dicom",
    "requests": "dicom",
    "sqlalchemy": "store",
    "alembic": "store",
}
ALLOWED_IN_CORE = {"numpy", "pydantic", "pydantic_settings"}  # the typed configuration


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            found |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module:
            found |= {item.module} | {f"{item.module}.{alias.name}" for alias in item.names}
    return found


def _unit(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "node" and len(parts) > 1 else None


def _row(unit: str) -> int | None:
    return next((index for index, row in enumerate(ROWS) if unit in row), None)


def _modules() -> list[tuple[str, Path]]:
    return [
        (path.relative_to(NODE).parts[0].removesuffix(".py"), path)
        for path in sorted(NODE.rglob("*.py"))
        if path != NODE / "__init__.py"
    ]


def test_every_module_stands_in_a_row() -> None:
    assert {unit for unit, _ in _modules()} <= set().union(*ROWS)


def test_imports_point_down_only() -> None:
    wrong = []
    for unit, path in _modules():
        mine = _row(unit)
        assert mine is not None
        for dotted in _imports(path):
            other = _unit(dotted)
            theirs = _row(other) if other else None
            same_row_packages = mine == theirs == _row("dicom") and other != unit
            if theirs is not None and (theirs < mine or same_row_packages):
                wrong.append(f"{path.relative_to(NODE)} imports {dotted}")
    assert wrong == []


def test_each_heavy_library_has_one_home() -> None:
    wrong = [
        f"{path.relative_to(NODE)} imports {dotted}"
        for unit, path in _modules()
        for dotted in _imports(path)
        if HOMES.get(dotted.split(".")[0], unit) != unit
    ]
    assert wrong == []


def test_core_knows_only_the_standard_library_numpy_and_its_configuration() -> None:
    import sys

    known = sys.stdlib_module_names | ALLOWED_IN_CORE | {"node"}
    wrong = [
        f"{path.relative_to(NODE)} imports {dotted}"
        for unit, path in _modules()
        if unit == "core"
        for dotted in _imports(path)
        if dotted.split(".")[0] not in known
    ]
    assert wrong == []
