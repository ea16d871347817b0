"""What a stage makes, taken from the cache if it was made before: graphs, and what eager computed.

The plain graph of a role is an entry of its own. One in few bits is made from it, so that another
precision of weights needs neither a trace nor the checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from c2c_export.building.graph_site import BuiltGraph, GraphSite
from c2c_export.building.stage_cache import Entry, StageCache
from c2c_export.building.stage_keys import Digests, stage_key
from c2c_export.graphs.few_bits import requantize_graph
from c2c_export.graphs.graph_cost import ModelCost
from c2c_export.lowering.graph_options import GraphOptions
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

    ``digests``: of what stages read. ``scratch``: a folder for what is being made, on the disk of the bundle, so that nothing is copied
    there. ``files``: of the bundle, by path, hashed already.
    """

    def __init__(self, cache: StageCache, digests: Digests, scratch: Path) -> None:
        self.cache = cache
        self.digests = digests
        self.scratch = scratch
        self.files: dict[Path, FileEntry] = {}

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
        key = stage_key("graph", role=role, options=_facts(plain), **read)

        def make_plain(folder: Path) -> Any:
            return _MADE.dump_python(export(folder, plain), mode="json")

        def make_few_bits(folder: Path) -> Any:
            with self._folder() as found:
                entry = self._entry(key, found, make_plain)
                requantize_graph(found / f"{role}.onnx", folder, role, options)
            return entry.said

        weights = options.precision.weights
        if weights is None:
            entry = self._entry(key, site.directory, make_plain)
        else:
            key_of_few = stage_key("few bits", plain=key, weights=weights)
            entry = self._entry(key_of_few, site.directory, make_few_bits)
        made: MadeGraph = _MADE.validate_python(entry.said)
        return site.built(made.spec, made.before, made.why)

    def results(
        self, name: str, target: Path, read: Mapping[str, Any], compute: Callable[[Path], Any]
    ) -> Any:
        """What ``compute`` says, as JSON has it, with the files that it writes into a folder now in
        ``target``."""
        return self._entry(stage_key(name, **read), target, compute).said

    def _entry(self, key: str, target: Path, make: Callable[[Path], Any]) -> Entry:
        """The entry of ``key``, with its files in ``target``."""
        target.mkdir(parents=True, exist_ok=True)
        entry = self.cache.find(key, target)
        if entry is None:
            with self._folder() as folder:
                said = json.loads(json.dumps(make(folder)))
                paths = sorted(folder.iterdir())
                entry = self.cache.keep(key, paths, said)
                for path in paths:
                    path.rename(target / path.name)
        self.files |= {target / name: file for name, file in entry.files.items()}
        return entry

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            yield Path(folder)


def _facts(options: GraphOptions) -> dict[str, Any]:
    """What an export reads of its options: not the limits that its graph does not depend on."""
    facts = asdict(options)
    del facts["limits"]
    return facts | {"max_seq_len": options.max_seq_len, "num_positions": options.num_positions}
