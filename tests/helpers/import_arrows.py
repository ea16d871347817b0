"""Which folder imports which, and which files import one another: read from the sources, every import
counted, those inside functions and those for type checkers, too.

    python tests/helpers/import_arrows.py            # the arrows, and the cycles (there should be none)
    python tests/helpers/import_arrows.py --files    # with the pairs of files behind every arrow
    python tests/helpers/import_arrows.py --table    # the table of docs/architecture.md
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"c2c_export": ROOT, "c2c_engines": ROOT / "engines", "c2c_runtime": ROOT / "runtime"}

FOR_ALL = {
    "c2c_export.interrupts",
    "c2c_export.system_errors",
    "c2c_runtime.arguments",
    "c2c_runtime.errors",
    "c2c_runtime.progress",
}

Graph = Mapping[str, set[str]]


def modules() -> dict[str, Path]:
    """Every file of the three packages, by the name it is imported under."""
    found = {}
    for package, parent in PACKAGES.items():
        for path in sorted((parent / package).rglob("*.py")):
            parts = path.relative_to(parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def file_imports() -> dict[str, set[str]]:
    """Which module imports which, among the three packages."""
    known = modules()
    return {
        name: set(_imported(ast.parse(path.read_text(encoding="utf-8")), known)) - {name}
        for name, path in known.items()
    }


def _imported(tree: ast.AST, known: Mapping[str, Path]) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            wanted = [name if name in known else node.module for name in inner]
        else:
            continue
        yield from (name for name in wanted if name in known)


def room(module: str) -> str:
    """The folder of a module, such as ``c2c_runtime.chain``. A file beside folders at the root of a
    package, such as ``c2c_runtime.errors``, is a room of its own; c2c_engines has no folders."""
    package, *inner = module.split(".")
    if not inner or package == "c2c_engines":
        return package
    return f"{package}.{inner[0]}"


def folder_arrows() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Pairs of files behind every arrow from one folder to another."""
    rooms = {module: room(module) for module in modules()}
    arrows: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for module, imported in file_imports().items():
        for other in sorted(imported):
            if rooms[module] != rooms[other]:
                arrows[rooms[module], rooms[other]].append((module, other))
    return dict(sorted(arrows.items()))


def folder_graph() -> dict[str, set[str]]:
    """Which folder imports which."""
    graph: dict[str, set[str]] = defaultdict(set)
    for source, target in folder_arrows():
        graph[source].add(target)
    return dict(graph)


def table() -> str:
    """The rows of docs/architecture.md: any room may import what is ``FOR_ALL``."""
    rows = ["| room | imports |", "|---|---|"]
    for source, targets in sorted(folder_graph().items()):
        if said := ", ".join(f"`{name}`" for name in sorted(targets - FOR_ALL)):
            rows.append(f"| `{source}` | {said} |")
    return "\n".join(rows)


def cycles(graph: Graph) -> list[list[str]]:
    """Groups that reach one another (strongly connected components of more than one), sorted."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def main() -> int:
    """Print arrows and cycles; 1 if there is a cycle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--files", action="store_true", help="show the files behind every arrow")
    parser.add_argument("--table", action="store_true", help="print the table of the architecture")
    asked = parser.parse_args()
    if asked.table:
        print(table())
        return 0
    arrows = folder_arrows()
    graph = folder_graph()
    for source in sorted(graph):
        counted = (f"{target} ({len(arrows[source, target])})" for target in sorted(graph[source]))
        print(f"{source} -> {', '.join(counted)}")
        if asked.files:
            for target in sorted(graph[source]):
                for importer, imported in arrows[source, target]:
                    print(f"    {importer} -> {imported}")
    of_files, of_folders = cycles(file_imports()), cycles(graph)
    for what, groups in (("files", of_files), ("folders", of_folders)):
        print(f"cycles of {what}: {len(groups) or 'none'}")
        for group in groups:
            print(f"    {' <-> '.join(group)}")
    return 1 if of_files or of_folders else 0


if __name__ == "__main__":
    sys.exit(main())
