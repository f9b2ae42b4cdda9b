"""The order of the rooms: imports go down only, and no files or rooms stand in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import latentseg

SOURCE = Path(latentseg.__file__).parent

# From the ground floor up: a room may use what stands below it.
ROOMS = (
    "errors",
    "version",
    "imaging",
    "phantom",
    "metrics",
    "text",
    "backbones",
    "methods",
    "api",
    "training",
    "evaluation",
    "batch",
    "report",
    "demo",
    "serve",
    "cli",
    "__main__",
)
# Inside of `methods`: the papers know nothing of what is ours, and neither method knows the other.
METHODS = ("base", "sdfsmis", "diffugts", "fewshot", "tumor")
FORBIDDEN = [
    ("sdfsmis", "fewshot"),
    ("sdfsmis", "diffugts"),
    ("sdfsmis", "tumor"),
    ("diffugts", "sdfsmis"),
    ("diffugts", "fewshot"),
    ("diffugts", "tumor"),
    ("fewshot", "diffugts"),
    ("fewshot", "tumor"),
    ("tumor", "sdfsmis"),
    ("tumor", "fewshot"),
]


def modules() -> dict[str, Path]:
    """Every module of the package but its front door, which names all rooms, by its dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports anywhere, for type checks too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(["latentseg", *above, *([base] if base else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names] + [base]
            targets = [next((t for t in targets[:-1] if t.removeprefix("latentseg.") in known), base)] + [
                t for t in targets[:-1] if t.removeprefix("latentseg.") in known
            ]
        else:
            continue
        for target in targets:
            inside = target.removeprefix("latentseg.")
            if target.startswith("latentseg.") and inside in known and inside != name:
                yield inside


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports_of(name, path, known)) for name, path in known.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (what is left after leaves are plucked)."""
    left = {node: set(targets) for node, targets in edges.items()}
    while True:
        leaves = {node for node, targets in left.items() if not targets & set(left)}
        roots = set(left) - set().union(*left.values()) if left else set()
        gone = leaves | roots
        if not gone:
            return [sorted(left)] if left else []
        left = {node: targets for node, targets in left.items() if node not in gone}


def test_every_room_has_its_place() -> None:
    assert {name.split(".")[0] for name in modules()} <= set(ROOMS)


def test_imports_go_down() -> None:
    order = {room: place for place, room in enumerate(ROOMS)}
    up = [
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in targets
        if order[target.split(".")[0]] > order[name.split(".")[0]]
    ]
    assert not up, up


def test_the_papers_stand_apart() -> None:
    crossing = [
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in targets
        for low, high in FORBIDDEN
        if name.startswith(f"methods.{low}.") and target.startswith(f"methods.{high}")
    ]
    assert not crossing, crossing


def test_no_files_in_a_circle() -> None:
    assert circles(graph()) == []


def test_no_rooms_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for name, targets in graph().items():
        rooms.setdefault(name.split(".")[0], set()).update(target.split(".")[0] for target in targets)
    assert circles({room: targets - {room} for room, targets in rooms.items()}) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
