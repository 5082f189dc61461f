"""Imports go downwards only (the levels of the design), held by walking the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmgenre"
SIBLINGS = ("mmgenre.data", "mmgenre.models", "mmgenre.evaluation")
LEVELS = {
    "mmgenre": 0,
    "mmgenre.constants": 0,
    "mmgenre.utils": 0,
    "mmgenre.checkpoints": 1,
    "mmgenre.configs": 1,
    "mmgenre.data": 2,
    "mmgenre.models": 2,
    "mmgenre.evaluation": 2,
    "mmgenre.evaluation.evaluator": 3,
    "mmgenre.training": 4,
    "mmgenre.inference": 4,
    "mmgenre.sweep": 4,
    "mmgenre.doctor": 5,
    "mmgenre.cli": 6,
    "train": 5,
    "evaluate": 5,
}
FILES = sorted([*PACKAGE.rglob("*.py"), ROOT / "train.py", ROOT / "evaluate.py"])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str:
    """The longest entry of LEVELS that the module lies in."""
    while module not in LEVELS:
        module = module.rpartition(".")[0]
    return module


def imports(path: Path) -> list[tuple[int, str]]:
    """(relative level, module) of every import in a file, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    own = unit(module_name(path))
    for level, module in imports(path):
        if level or not module.startswith("mmgenre"):
            continue
        other = unit(module)
        is_below = LEVELS[other] < LEVELS[own] or other == own
        assert is_below, f"{module_name(path)} imports {module}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=lambda p: p.name)
def test_models_travel_alone(path: Path) -> None:
    siblings = {sibling.stem for sibling in path.parent.glob("*.py")}
    assert not list(path.parent.glob("*/*.py")), "models/ must stay flat"
    for level, module in imports(path):
        assert not module.startswith("mmgenre"), f"{path.name} imports {module}"
        assert level == 0 or (level == 1 and module in siblings), f"{path.name} imports .{module}"
