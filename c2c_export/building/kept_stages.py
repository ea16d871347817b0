"""What a stage makes, taken from the cache if it was made before: graphs, and what eager computed.

The plain graph of a role is an entry of its own. One in few bits is made from it, so that another
precision of weights needs neither a trace nor the checkpoint.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from c2c_export.building.graph_site import BuiltGraph, GraphSite
from c2c_export.building.stage_cache import StageCache
from c2c_export.building.stage_keys import Digests, stage_key
from c2c_export.graphs.few_bits import requantize_graph
from c2c_export.graphs.graph_cost import ModelCost
from c2c_export.lowering.graph_options import GraphOptions
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import file_entry
from c2c_runtime.bundle.manifest import FileEntry, GraphSpec
from c2c_runtime.bundle.precision import GraphPrecision


@dataclass(frozen=True)
class MadeGraph:
    """A graph as its export left it: what it is, what its model was before, and why they differ."""

    spec: GraphSpec
    before: ModelCost
    why: tuple[str, ...] = ()


_MADE = TypeAdapter(MadeGraph)


class KeptStages:
    """Makes what the cache does not hold.

    ``cache`` None: makes everything, and keeps nothing. ``digests``: of what stages read. ``scratch``: a
    folder for what is being made, on the disk of the bundle, so that nothing is copied there.
    What is made is hashed and kept by a thread, while the next stage begins.
    """

    def __init__(self, cache: StageCache | None, digests: Digests, scratch: Path) -> None:
        self.cache = cache
        self.digests = digests
        self.scratch = scratch
        self._files: dict[Path, FileEntry] = {}
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="c2c-keep")

    def graph(
        self,
        site: GraphSite,
        role: str,
        read: Mapping[str, Any],
        export: Callable[[Path, GraphOptions], MadeGraph],
    ) -> BuiltGraph:
        """The graph of ``role``, in the bundle. ``read``: all that ``export`` reads but its arguments, the
        folder to write to and the options of the plain graph."""
        options = site.options(role)
        plain = replace(options, precision=GraphPrecision(options.precision.activations))
        key = stage_key("graph", role=role, options=_facts(plain, role), **read)

        def make_plain(folder: Path) -> Any:
            return _MADE.dump_python(export(folder, plain), mode="json")

        def make_few_bits(folder: Path) -> Any:
            with self._folder() as found:
                said = self._entry(key, found, make_plain)
                requantize_graph(found / f"{role}.onnx", folder, role, options)
                self._wait()  # for what is kept from ``found``
            return said

        weights = options.precision.weights
        if weights is None:
            said = self._entry(key, site.directory, make_plain)
        else:
            key_of_few = stage_key("few bits", plain=key, weights=weights)
            said = self._entry(key_of_few, site.directory, make_few_bits)
        made: MadeGraph = _MADE.validate_python(said)
        return site.built(made.spec, made.before, made.why)

    def results(
        self, name: str, target: Path, read: Mapping[str, Any], compute: Callable[[Path], Any]
    ) -> Any:
        """What ``compute`` says, as JSON has it, with the files that it writes into a folder now in
        ``target``."""
        return self._entry(stage_key(name, **read), target, compute)

    def files(self) -> dict[Path, FileEntry]:
        """Sizes and hashes of what was made or found, by where it lies. Waits until all of it is kept."""
        self._wait()
        return self._files

    def close(self) -> None:
        """Keep what is being kept, and no more. What was made without the cache is gone after it."""
        self._keeper.shutdown(cancel_futures=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _entry(self, key: str, target: Path, make: Callable[[Path], Any]) -> Any:
        """What a stage said, with its files in ``target``."""
        target.mkdir(parents=True, exist_ok=True)
        entry = self.cache.find(key, target) if self.cache is not None else None
        if entry is not None:
            self._files |= {target / name: file for name, file in entry.files.items()}
            return entry.said
        with self._folder() as folder:
            said = json.loads(json.dumps(make(folder)))
            placed = [path.rename(target / path.name) for path in sorted(folder.iterdir())]
        self._keeper.submit(self._keep, key, placed, said)
        return said

    def _keep(self, key: str, paths: Sequence[Path], said: Any) -> None:
        files = {path: file_entry(path) for path in paths}
        self._files |= files
        if self.cache is not None:
            # A cache without room, or that is not ours to write, is as good as none.
            with suppress(OSError):
                self.cache.keep(key, files, said)

    def _wait(self) -> None:
        """One thread takes what it was given in order: when it comes to this, all before is done."""
        self._keeper.submit(int).result()

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            yield Path(folder)


def _facts(options: GraphOptions, role: str) -> dict[str, Any]:
    """What an export reads of its options: not the limits that its graph does not depend on. A Fuser
    rotates nothing."""
    facts = asdict(options) | {"max_seq_len": options.max_seq_len}
    del facts["limits"]
    return facts if role == names.FUSER else facts | {"num_positions": options.num_positions}
