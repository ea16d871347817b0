"""The structure that docs/architecture.md promises: who imports whom, what a wheel holds, file sizes."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_arrows import PACKAGES, cycles, file_imports, folder_graph, table

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
ARCHITECTURE = ROOT / "docs" / "architecture.md"

# What each package may import of the others: the arrow c2c_export -> c2c_engines -> c2c_runtime.
ALLOWED_PACKAGES = {
    "c2c_export": {"c2c_export", "c2c_engines", "c2c_runtime"},
    "c2c_engines": {"c2c_engines", "c2c_runtime"},
    "c2c_runtime": {"c2c_runtime"},
}
# Third parties: at the top of a file, and besides these only inside functions.
ALLOWED_AT_TOP = {
    "c2c_runtime": {"numpy", "onnxruntime", "tokenizers", "jinja2", "psutil", "pydantic"},
    "c2c_engines": {"filelock", "numpy", "pydantic"},
}
ALLOWED_IN_FUNCTIONS = {
    "c2c_runtime": {"cuda", "tensorrt", "tensorrt_rtx"},
    "c2c_engines": {"onnx", "tensorrt", "tensorrt_rtx", "onnxruntime", "cuda"},
}
# Modules of Python that Windows has not.
UNIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios")
COMPILER_ONLY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript")

# Split, so that this file does not hold what it looks for.
MACHINE_TRACES = [
    r"(?<![\w./-])/" + "(?:wo" + r"rk|ro" + r"ot)/",
    "files.python" + "hosted",
    "pypi" + r"\.org",
    "download.py" + "torch",
    "registry.npm" + "js",
    "deb.deb" + "ian",
]


def source_files(package: str) -> list[Path]:
    return sorted((PACKAGES[package] / package).rglob("*.py"))


def all_sources() -> list[Path]:
    return [path for package in PACKAGES for path in source_files(package)]


def imported_names(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Top-level name of every absolute import, whether it is inside a function, and its line."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name.partition(".")[0], in_function, child.lineno
            elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
                yield child.module.partition(".")[0], in_function, child.lineno
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, in_function or is_function)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), False)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrow(package):
    assert source_files(package)
    against = [
        f"{where(path, line)} imports {name}"
        for path in source_files(package)
        for name, _, line in imported_names(path)
        if name in {*PACKAGES} - ALLOWED_PACKAGES[package]
    ]
    assert against == []


@pytest.mark.parametrize("package", ALLOWED_AT_TOP)
def test_third_party_imports_are_the_allowed_ones(package):
    at_top = ALLOWED_AT_TOP[package] | ALLOWED_PACKAGES[package] | sys.stdlib_module_names
    in_functions = at_top | ALLOWED_IN_FUNCTIONS[package]
    against = [
        f"{where(path, line)} imports {name}" + ("" if in_function else " at the top")
        for path in source_files(package)
        for name, in_function, line in imported_names(path)
        if name not in (in_functions if in_function else at_top)
    ]
    assert against == []


BLOCK_COMPILER = f"""
import importlib, importlib.abc, pkgutil, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {COMPILER_ONLY!r}:
            raise ImportError(f"{{name}} is needed to compile, never to run")

sys.meta_path.insert(0, Blocker())
"""


def run_without_compiler(script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a fresh interpreter in which torch, transformers and onnx do not import."""
    return run_fresh(BLOCK_COMPILER + script)


def run_fresh(script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )


def test_the_blocker_blocks():
    result = run_without_compiler("import torch")
    assert result.returncode != 0
    assert "needed to compile, never to run" in result.stderr


def test_every_runtime_module_imports_without_the_compiler():
    result = run_without_compiler(
        """
import c2c_runtime
for found in pkgutil.walk_packages(c2c_runtime.__path__, "c2c_runtime."):
    print(importlib.import_module(found.name).__name__)
"""
    )
    assert result.returncode == 0, result.stderr
    expected = {
        ".".join(path.relative_to(ROOT / "runtime").with_suffix("").parts)
        for path in source_files("c2c_runtime")
        if path.name not in {"__init__.py", "__main__.py"}
    }
    assert expected <= set(result.stdout.split())


# Libraries may import them where they are: only our own imports are refused.
LIKE_WINDOWS = f"""
import builtins, importlib, pkgutil

import_ = builtins.__import__

def without_unix(name, globals=None, *rest, **named):
    importer = (globals or {{}}).get("__name__", "").partition(".")[0]
    if name in {UNIX_ONLY!r} and importer in {tuple(PACKAGES)!r}:
        raise ImportError(f"{{name}} is not on Windows")
    return import_(name, globals, *rest, **named)

builtins.__import__ = without_unix
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_imports_on_windows(package):
    """As far as that can be seen here: without the modules of Python that only Unix has."""
    result = run_fresh(
        LIKE_WINDOWS
        + f"""
package = importlib.import_module({package!r})
for found in pkgutil.walk_packages(package.__path__, {package + "."!r}):
    print(importlib.import_module(found.name).__name__)
"""
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(result.stdout.split()) > 10


@pytest.mark.parametrize(
    "command", [[], ["run"], ["verify"], ["inspect"], ["doctor"], ["bench"], ["eval"]], ids=" ".join
)
def test_commands_of_a_device_need_no_compiler(command):
    """``run``, ``verify``, ``inspect``, ``doctor``, ``bench`` and ``eval`` work where only the runtime is installed."""
    modules = ["c2c_export.cli", *(f"c2c_export.commands.{name}" for name in command)]
    result = run_without_compiler(
        f"""
for name in {modules!r}:
    importlib.import_module(name)
sys.argv = ["c2c-export", *{command!r}, "--help"]
sys.exit(sys.modules["c2c_export.cli"].main())
"""
    )
    assert result.returncode == 0, result.stderr
    assert "--help" in result.stdout


def test_no_files_import_one_another_in_a_circle():
    assert cycles(file_imports()) == []


def test_no_folders_import_one_another_in_a_circle():
    assert cycles(folder_graph()) == []


def test_rooms_import_what_the_architecture_says():
    """If this fails for a good reason: ``python tests/helpers/import_arrows.py --table``."""
    assert f"\n{table()}\n\n" in ARCHITECTURE.read_text(encoding="utf-8")


def test_the_script_says_that_there_is_no_circle():
    script = ROOT / "tests" / "helpers" / "import_arrows.py"
    called = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert called.returncode == 0, called.stdout
    assert "cycles of files: none\ncycles of folders: none" in called.stdout
    assert len(called.stdout.splitlines()) == len(folder_graph()) + 2


def test_cycles_are_found():
    """The yardstick of the two tests above: one circle of three, one of two, and a way into them."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e", "a"}, "e": {"d"}, "f": {"d"}}
    assert cycles(graph) == [["a", "b", "c"], ["d", "e"]]


def test_every_package_has_an_init():
    missing = {
        str(path.parent.relative_to(ROOT))
        for path in all_sources()
        if not (path.parent / "__init__.py").exists()
    }
    assert missing == set()


def test_wheel_holds_every_source_under_its_import_name(tmp_path):
    # A copy, so that neither build/ appears in the tree nor an old build/ leaks into the wheel.
    tree = tmp_path / "tree"
    for package, parent in PACKAGES.items():
        source = parent / package
        target = tree / source.relative_to(ROOT)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    pip_wheel = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*pip_wheel, "--no-index", "--wheel-dir", str(tmp_path / "wheel")],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr

    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = [name for name in archive.namelist() if ".dist-info/" in name]
    expected = [
        path.relative_to(parent).as_posix()
        for package, parent in PACKAGES.items()
        for path in source_files(package)
    ]
    assert sorted(name for name in held if name.endswith(".py")) == sorted(expected)
    assert {name.partition("/")[0] for name in held} == set(PACKAGES)
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_no_source_file_is_too_long():
    too_long = {
        str(path.relative_to(ROOT)): count
        for path in all_sources()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert too_long == {}


def test_no_file_is_named_utils():
    assert [str(path.relative_to(ROOT)) for path in all_sources() if path.stem == "utils"] == []


def project_files() -> list[Path]:
    """Files that are or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:  # not a git checkout: an unpacked archive
        return [
            path
            for path in ROOT.rglob("*")
            if path.is_file()
            and not any(
                part in {".venv", "build", "dist", "__pycache__"}
                or part.endswith((".egg-info", "_cache"))
                for part in path.relative_to(ROOT).parts
            )
        ]
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_files_that_documents_name_are_there():
    named = re.compile(
        r"\b(?:c2c_export|engines|runtime|tests|benchmarks|docs)/[\w./-]+\.(?:py|md|svg|sh)\b"
    )
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in project_files()
        if path.suffix == ".md" and path.name != "CHANGELOG.md"
        for name in named.findall(path.read_text(encoding="utf-8"))
        if "NAME" not in name and not (ROOT / name).exists()
    ]
    assert missing == []


def test_no_traces_of_a_machine_in_the_project():
    pattern = re.compile("|".join(MACHINE_TRACES))
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not a text file
        found += [
            f"{where(path, number)}: {match.group()}"
            for number, line in enumerate(text.splitlines(), 1)
            if (match := pattern.search(line))
        ]
    assert found == []
