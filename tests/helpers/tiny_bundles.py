"""Bundles of tiny pairs, each built once a test run and shared by its workers.

They are read-only by convention: ``copied`` makes one that a test may damage.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import byte_fallback, byte_level
from tiny_models import tiny_pair

from c2c_export.building.build import build_bundle
from c2c_export.building.build_options import BuildOptions
from c2c_export.building.progress import Stages
from c2c_export.pair.asked import AskedLimits
from c2c_export.pair.pair import PairSource, explicit_pair
from c2c_runtime.bundle.bundle import MANIFEST_NAME, dump_manifest, read_manifest, sha256_of
from c2c_runtime.bundle.manifest import EngineSpec, FileEntry

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The directory that ``make`` fills: by the first worker that asks, the others wait."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers' folders lie side by side in the run's
    path = base / name
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = base / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(path)
    return path


def source_of(paths: dict[str, Path]) -> PairSource:
    """The pair of ``tiny_pair``'s folders."""
    return explicit_pair(str(paths["receiver"]), [str(paths["sharer"])], [paths["fuser"]])


def options_of(paths: dict[str, Path]) -> list[str]:
    """The command line's options that name ``tiny_pair``'s folders."""
    return [item for role, path in paths.items() for item in (f"--{role}", str(path))]


def pair_paths(directory: Path) -> dict[str, Path]:
    """The folders that ``tiny_pair(directory)`` made."""
    return {role: directory / role for role in ("receiver", "sharer", "fuser")}


def build(paths: dict[str, Path], bundle: Path, **options: Any) -> Path:
    """Build without a word and return ``bundle``. ``options``: of ``AskedLimits`` and ``BuildOptions``."""
    asked = {name: options.pop(name) for name in list(options) if name.startswith("max_")}
    wanted = BuildOptions(limits=AskedLimits(**asked), **options)
    build_bundle(source_of(paths), bundle, wanted, Stages())
    return bundle


def text_pair(directory: Path, *, hidden: int = 48) -> dict[str, Path]:
    """A pair with tokenizers of two kinds, so that its bundle has every kind of file. The Sharer's
    head size is a quarter of ``hidden``; engines take no 12, and int4 no 48 inputs."""
    paths = tiny_pair(
        directory,
        receiver={"layers": 2, "vocab": 424, "hidden": hidden},
        sharer={"layers": 2, "vocab": 640, "hidden": hidden},
    )
    receiver = deepcopy(byte_level())  # others use it as it is
    receiver.chat_template = TEMPLATE
    receiver.save_pretrained(paths["receiver"])
    byte_fallback().save_pretrained(paths["sharer"])
    return paths


def text_bundle(factory: pytest.TempPathFactory) -> Path:
    """``pair/`` is ``text_pair``, ``bundle/`` its bundle: 64 tokens, prefilled 16 at a time."""

    def make(directory: Path) -> None:
        paths = text_pair(directory / "pair")
        build(paths, directory / "bundle", max_seq_len=64, max_prompt_len=16)

    return made_once(factory, "text", make)


def two_sharer_bundle(factory: pytest.TempPathFactory) -> Path:
    """A bundle of a Receiver and two Sharers with windows of 16 positions, capacity 96, 16 tokens a pass."""

    def make(directory: Path) -> None:
        few = {"layers": 2}
        first, second = (
            tiny_pair(
                directory / str(seed), "mistral", "mistral", seed=seed, receiver=few, sharer=few
            )
            for seed in (0, 10)
        )
        source = explicit_pair(
            str(first["receiver"]),
            [str(first["sharer"]), str(second["sharer"])],
            [first["fuser"], second["fuser"]],
        )
        options = BuildOptions(limits=AskedLimits(96, 16), verify=False)
        build_bundle(source, directory / "bundle", options, Stages())

    return made_once(factory, "two_sharers", make) / "bundle"


def copied(bundle: Path, target: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(bundle, target))


def resigned(bundle: Path, **changes: Any) -> Path:
    """Change fields of the manifest of ``bundle`` and sign it again."""
    manifest = replace(read_manifest(bundle), **changes)
    (bundle / MANIFEST_NAME).write_bytes(dump_manifest(manifest))
    return bundle


def rehashed(bundle: Path, *names: str) -> Path:
    """Let the manifest of ``bundle`` vouch for files that were changed after the build."""
    entries = {
        name: FileEntry((bundle / name).stat().st_size, sha256_of(bundle / name)) for name in names
    }
    return resigned(bundle, files=read_manifest(bundle).files | entries)


def with_engines(bundle: Path, **changes: Any) -> Path:
    """Add an engine for every graph: files that no backend built, so they can be checked, not run.

    By default TensorRT-RTX 1.7.1.116, sm89, linux-x86_64, fp16; ``changes`` are fields of each spec.
    """
    manifest = read_manifest(bundle)
    target = changes.get("target", "sm89")
    specs = []
    for role in dict.fromkeys(graph.role for graph in manifest.graphs):
        path = f"engines/tensorrt-rtx-{target}/{role}.engine"
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_bytes(f"no engine: {role} {target}".encode() * 99)
        spec = EngineSpec(
            role, "tensorrt-rtx", "1.7.1.116", "sm89", "linux-x86_64", "fp16", path, ()
        )
        specs.append(replace(spec, **changes))
    resigned(bundle, engines=(*manifest.engines, *specs))
    return rehashed(bundle, *(spec.path for spec in specs))
