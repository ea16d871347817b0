"""Opening a bundle: the manifest is validated, every path stays inside, every file is as written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from c2c_runtime.bundle import names
from c2c_runtime.bundle.cache_spec import CacheSpec, Owner
from c2c_runtime.bundle.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    BaselineSpec,
    EngineBackend,
    FileEntry,
    GraphSpec,
    Manifest,
    ModelDims,
    Pair,
)
from c2c_runtime.errors import BundleError, Problem, UsageError

MANIFEST_NAME = "manifest.json"
_PIECE_BYTES = 8 * 2**20
_REBUILD = (
    "build the bundle again with `c2c-export build`, or copy it again from where it was built"
)


class Bundle:
    """A directory on disk and the manifest that describes it. Immutable."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path, *, with_engines: bool = True) -> Bundle:
        """Read and check the manifest, and that every file is there with its size.

        ``with_engines=False``: as if none had been built, so that damaged ones do no harm. Contents
        are not hashed here (see ``check_hashes``). Raises ``BundleError`` with every problem found.
        """
        root = Path(path)
        manifest = read_manifest(root)
        if not with_engines:
            manifest = _without_engines(manifest)
        bundle = cls(root, manifest)
        problems = list(bundle._check_files())
        if problems:
            raise BundleError(f"the bundle {root} cannot be used:", problems)
        return bundle

    def path_of(self, relative: str) -> Path:
        """Absolute path of a file or folder of the bundle."""
        return self.root / relative

    def has_graph(self, role: str) -> bool:
        """Whether there is a graph of a role. A pair whose gates are all closed needs no Fuser."""
        return any(graph.role == role for graph in self.manifest.graphs)

    def graph(self, role: str) -> GraphSpec:
        """The graph of a role. Raises ``BundleError`` if there is none."""
        for graph in self.manifest.graphs:
            if graph.role == role:
                return graph
        raise BundleError(f"the bundle {self.root} holds no graph {role}")

    def baseline(self, number: int) -> Bundle:
        """A view of this bundle in which Sharer ``number`` (from 1) is the Receiver of a pair without
        Sharers, with its own tokenizer and EOS ids. Its files are the whole Sharer's alone.

        Raises ``UsageError`` if the bundle was built without ``--with-baselines``.
        """
        whole = self.manifest
        found = next((spec for spec in whole.baselines if spec.sharer == number), None)
        if found is None:
            held = ", ".join(str(spec.sharer) for spec in whole.baselines)
            raise UsageError(
                f"Sharer {number} can answer by itself only with its LM head; the bundle {self.root} "
                + (f"holds that of Sharer {held} alone" if held else "holds none"),
                "build it with `c2c-export build --with-baselines`, or use mode c2c or receiver",
            )
        graph = replace(found.graph, role=names.RECEIVER)
        tokenizer = whole.tokenizers.get(names.sharer(number))
        folder = None if tokenizer is None else PurePosixPath(tokenizer.path)
        owned = set(self._baseline_files(found))
        files = {
            name: entry
            for name, entry in whole.files.items()
            if name in owned or PurePosixPath(name).parent == folder
        }
        manifest = replace(
            whole,
            pair=Pair(
                f"{whole.pair.name}, Sharer {number} alone",
                whole.pair.sharers[number - 1].dims,
                (),
            ),
            graphs=(graph,),
            engines=(),
            tokenizers={} if tokenizer is None else {names.RECEIVER: tokenizer},
            alignments={},
            eos_ids=found.eos_ids,
            golden=found.golden,
            files=files,
            loss=None,
            baselines=(),
        )
        return Bundle(self.root, manifest)

    @property
    def receiver_caches(self) -> CacheSpec:
        """The Receiver's caches, as its graph wants them."""
        dims = self.manifest.pair.receiver
        return self._caches("Receiver", names.RECEIVER, dims, dims.num_layers)

    def sharer_caches(self, number: int) -> CacheSpec:
        """Those of Sharer ``number`` (from 1); of no layers if it is never run."""
        sharer = self.manifest.pair.sharers[number - 1]
        return self._caches("Sharer", names.sharer(number), sharer.dims, sharer.num_cached_layers)

    def _caches(self, owner: Owner, role: str, dims: ModelDims, num_layers: int) -> CacheSpec:
        dtype = self.graph(role).dtype_of(names.past(0, "key")) if num_layers else "float32"
        return CacheSpec(owner, dims, num_layers, self.manifest.limits, dtype)

    def files_of(self, role: str) -> list[str]:
        """Files that only who runs the graph of ``role`` reads: the graph and its weights. Engines are
        checked one by one when they are read, see ``engine_check.read_engine``."""
        return self._files_at(*(graph.path for graph in self.manifest.graphs if graph.role == role))

    def graph_bytes(self, role: str) -> int:
        """Bytes of a role's graph and its weights, as they lie on the disk."""
        files = self._files_at(self.graph(role).path)
        return sum(self.manifest.files[name].size_bytes for name in files)

    def _baseline_files(self, baseline: BaselineSpec) -> list[str]:
        """Files that only who lets a Sharer speak reads."""
        return self._files_at(baseline.graph.path, *(case.path for case in baseline.golden))

    def _files_at(self, *paths: str) -> list[str]:
        """The files of these paths, and those that lie beside one under its name and a suffix."""
        return [
            name
            for name in self.manifest.files
            if any(name == path or name.startswith(f"{path}.") for path in paths)
        ]

    @property
    def common_files(self) -> list[str]:
        """Files of no single role, baseline or target: tokenizers, alignments, golden cases."""
        roles = dict.fromkeys(graph.role for graph in self.manifest.graphs)
        owned = {name for role in roles for name in self.files_of(role)}
        owned.update(_engine_files(self.manifest))
        for baseline in self.manifest.baselines:
            owned.update(self._baseline_files(baseline))
        return [name for name in self.manifest.files if name not in owned]

    def check_hashes(
        self,
        on_read: Callable[[int], None] | None = None,
        files: Iterable[str] | None = None,
    ) -> None:
        """Read files and compare their sha256 with the manifest's. Raises ``BundleError``.

        ``on_read`` is told the bytes of each piece that was read, for a progress bar. ``files``: names
        of some files, None: all.
        """
        entries = self.manifest.files
        problems = [
            Problem(
                f"{name} is not the file that was built (its sha256 differs)", self._remedy(name)
            )
            for name in (entries if files is None else files)
            if sha256_of(self.path_of(name), on_read) != entries[name].sha256
        ]
        if problems:
            raise BundleError(f"the bundle {self.root} is damaged:", problems)

    def _check_files(self) -> Iterable[Problem]:
        root = self.root.resolve()
        for name, entry in self.manifest.files.items():
            path = PurePosixPath(name)
            full = self.root / name
            if path.is_absolute() or ".." in path.parts or not full.resolve().is_relative_to(root):
                yield Problem(f"the manifest names {name}, which leaves the bundle", _REBUILD)
            elif not full.is_file():
                yield Problem(f"{name} is missing", self._remedy(name))
            elif full.stat().st_size != entry.size_bytes:
                size = full.stat().st_size
                cause = f"{name} has {size} bytes, not {entry.size_bytes}"
                yield Problem(cause, self._remedy(name))
        for name in _named_paths(self.manifest):
            if name not in self.manifest.files:
                yield Problem(f"the manifest uses {name} but does not list it as a file", _REBUILD)

    def _remedy(self, name: str) -> str:
        """What to do about a damaged file. Engines can be built again from the bundle's graphs."""
        engine = next((spec for spec in self.manifest.engines if spec.path == name), None)
        if engine is None:
            return _REBUILD
        command = build_engines_command(self.root, engine.backend, engine.target)
        return (
            f"copy the bundle again from where it was built, or build the engine again: {command}"
        )


def build_engines_command(bundle: str | Path, backend: EngineBackend, target: str | None) -> str:
    """The command that builds a bundle's engines; ``target`` None: for the GPU that is here."""
    command = f"c2c-export build-engines {bundle} --backend {backend}"
    return f"{command} --target {target}" if target else command


def _without_engines(manifest: Manifest) -> Manifest:
    theirs = _engine_files(manifest)
    files = {name: entry for name, entry in manifest.files.items() if name not in theirs}
    return replace(manifest, engines=(), files=files)


def _engine_files(manifest: Manifest) -> set[str]:
    """Engines of all targets, and what lies beside them: timing caches."""
    folders = {PurePosixPath(engine.path).parent for engine in manifest.engines}
    return {name for name in manifest.files if PurePosixPath(name).parent in folders}


def read_manifest(root: Path) -> Manifest:
    """Parse and validate ``root/manifest.json``. Raises ``BundleError``."""
    if not root.is_dir():
        raise BundleError.of(f"{root}: no such directory", "give the directory of a bundle")
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise BundleError.of(
            f"{root} is no bundle: it holds no {MANIFEST_NAME}",
            "give the directory that `c2c-export build -o` wrote",
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError.of(f"{path} is damaged: {error!r}", _REBUILD) from error
    if version != SCHEMA_VERSION:
        raise BundleError.of(
            f"{path} has schema version {version}; this runtime reads version {SCHEMA_VERSION}",
            "upgrade c2c-export to read it, or build the bundle again with this version",
        )
    try:
        manifest = MANIFEST.validate_python(data)
    except ValidationError as error:
        problems = [
            Problem(f"{'.'.join(map(str, item['loc']))}: {item['msg']}", _REBUILD)
            for item in error.errors()
        ]
        raise BundleError(f"{path} is damaged:", problems) from error
    if manifest.digest != digest_of(data):
        raise BundleError.of(f"{path} was changed after the build (its digest differs)", _REBUILD)
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as the bytes of ``manifest.json``, with its digest filled in."""
    digest = digest_of(MANIFEST.dump_python(manifest, mode="json"))
    return MANIFEST.dump_json(replace(manifest, digest=digest), indent=1) + b"\n"


def digest_of(data: Mapping[str, Any]) -> str:
    """sha256 over everything a manifest's JSON says but ``created_at`` and the digest itself.

    Over what was read, and not over what this version would write: a field that a later version adds
    with a default must not make older bundles look damaged.
    """
    signed = {key: value for key, value in data.items() if key not in ("created_at", "digest")}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_entry(path: Path) -> FileEntry:
    """What a manifest says of a file: its size and hash."""
    return FileEntry(path.stat().st_size, sha256_of(path))


def sha256_of(path: Path, on_read: Callable[[int], None] | None = None) -> str:
    """Hex sha256 of a file's content. ``on_read`` is told the bytes of each piece."""
    with path.open("rb") as file:
        if on_read is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            on_read(len(piece))
        return digest.hexdigest()


def _named_paths(manifest: Manifest) -> Iterable[str]:
    yield from (graph.path for graph in manifest.graphs)
    yield from (engine.path for engine in manifest.engines)
    yield from (f"{tokenizer.path}/tokenizer.json" for tokenizer in manifest.tokenizers.values())
    yield from manifest.alignments.values()
    yield from (case.path for case in manifest.golden)
    for baseline in manifest.baselines:
        yield baseline.graph.path
        yield from (case.path for case in baseline.golden)
    if manifest.loss is not None:
        yield manifest.loss.path
