"""Whether an engine runs on a machine: decided from the manifest, before anything is deserialised.

What TensorRT says of an engine that does not fit is "could not deserialize", or a crash
(NVIDIA/TensorRT#2176, #818). So backend, version, platform and compute capability are compared first,
and a problem names what was expected, what was found and the command that rebuilds.

An engine runs with the version that built it only:

- TensorRT engines are compatible with the version that built them; only a build with
  VERSION_COMPATIBLE, which the engines of a bundle are not, runs on later ones, and slower
  (https://docs.nvidia.com/deeplearning/tensorrt/11.1.0/inference-library/engine-compatibility.html).
- TensorRT-RTX engines are not compatible between releases at all: a new library needs new engines
  (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html).

Compared is major.minor.patch, and the build number where both sides state it: JetPack's package says
10.3.0 where the library says 10.3.0.30. Neither kind moves between operating systems or, as built
here, between compute capabilities.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from c2c_runtime.bundle.bundle import Bundle, build_engines_command
from c2c_runtime.bundle.manifest import Dialect, EngineBackend, EngineSpec, Manifest
from c2c_runtime.errors import BundleError, Problem, UnavailableError
from c2c_runtime.machine.machine import LIBRARIES, Gpu, Machine

# What TensorRT-RTX 1.7 builds for, and where it exists. No Jetson Orin (sm87), no Hopper (sm90).
TENSORRT_RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
TENSORRT_RTX_PLATFORMS = ("linux-x86_64", "windows-x86_64")
# The first TensorRT with a KV-cache update layer, which the dialect `tensorrt` needs.
_KV_UPDATE_SINCE = (10, 15)
# Both can run: not measured against each other. TensorRT chose its kernels on such a GPU.
_PREFERENCE: tuple[EngineBackend, ...] = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class EngineSet:
    """One engine for every graph of a pair, all of one backend, version, target and precision, and
    the GPU of this machine that they run on."""

    backend: EngineBackend
    backend_version: str
    target: str
    precision: str
    engines: tuple[EngineSpec, ...]
    gpu: Gpu

    def engine(self, role: str) -> EngineSpec | None:
        """The engine of a role, or None where the pair needs none (every gate closed)."""
        return next((spec for spec in self.engines if spec.role == role), None)


@dataclass(frozen=True)
class EngineChoice:
    """What of a bundle's engines runs here (``sets``, best first), and why the rest does not."""

    sets: tuple[EngineSet, ...]
    problems: tuple[Problem, ...]

    def best(self) -> EngineSet:
        """The best set. Raises ``UnavailableError`` with every reason where none runs here."""
        if self.sets:
            return self.sets[0]
        reasons = "".join(f"\n  - {problem}" for problem in self.problems)
        raise UnavailableError(
            f"no engine of the bundle runs on this machine:{reasons}",
            "one of the above, or answer with ONNX Runtime where the bundle has graphs for it",
        )


def engine_problems(
    spec: EngineSpec, machine: Machine, bundle: str | Path = "BUNDLE"
) -> list[Problem]:
    """Every reason why an engine does not run on a machine; empty: it does.

    ``bundle``: the path that the remedies name. Only the manifest is compared, see ``read_engine``
    for the file.
    """
    return _problems_of(spec.path, spec, machine, bundle)


def choose_engines(
    manifest: Manifest, machine: Machine, bundle: str | Path = "BUNDLE"
) -> EngineChoice:
    """The sets of engines that run here, best first: the first GPU, then ``_PREFERENCE``.

    A set is complete (one engine for every graph) or no choice at all.
    """
    roles = dict.fromkeys(graph.role for graph in manifest.graphs)
    groups: dict[tuple[str, ...], list[EngineSpec]] = {}
    for spec in manifest.engines:
        key = (spec.backend, spec.backend_version, spec.target, spec.platform, spec.precision)
        groups.setdefault(key, []).append(spec)
    sets: list[EngineSet] = []
    problems: list[Problem] = []
    for specs in groups.values():
        reasons = _set_problems(specs, roles, machine, bundle)
        problems += reasons
        sets += [] if reasons else [_engine_set(specs, machine)]
    if not groups:
        command = build_engines_command(bundle, backend_for(machine), None)
        problems = [Problem("the bundle holds no engines", f"build them: {command}")]
    sets.sort(key=lambda found: (found.gpu.index, _PREFERENCE.index(found.backend)))
    return EngineChoice(tuple(sets), tuple(problems))


def read_engine(bundle: Bundle, spec: EngineSpec) -> bytes:
    """The engine's file, as it was built: size and sha256 are the manifest's.

    Raises ``BundleError`` where it is missing, truncated or altered.
    """
    path = bundle.path_of(spec.path)
    command = rebuild_command(spec, None, bundle.root)
    remedy = f"copy the bundle again from where it was built, or build the engine again: {command}"
    entry = bundle.manifest.files.get(spec.path)
    if entry is None:
        raise BundleError.of(f"the manifest uses {path} but does not list it as a file", remedy)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError.of(f"{path} cannot be read: {error.strerror}", remedy) from error
    if len(content) != entry.size_bytes:
        raise BundleError.of(f"{path} has {len(content)} bytes, not {entry.size_bytes}", remedy)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError.of(f"{path} is not what was built (its sha256 differs)", remedy)
    return content


def same_version(built_with: str, installed: str) -> bool:
    """Whether every number that both versions state is equal, major.minor.patch at least."""
    ours, theirs = _numbers(built_with), _numbers(installed)
    common = min(len(ours), len(theirs))
    return common >= 3 and ours[:common] == theirs[:common]


def dialects_for(backend: EngineBackend, version: str) -> tuple[Dialect, ...]:
    """The dialects of graphs that a version of a backend builds engines from, best first."""
    if backend == "tensorrt" and _numbers(version) < _KV_UPDATE_SINCE:
        return ("tensorrt-scatter",)
    return ("tensorrt", "tensorrt-scatter")


def rebuild_command(spec: EngineSpec, machine: Machine | None, bundle: str | Path) -> str:
    """The command that builds an engine's like for a machine; None: for what it was built for."""
    backend, target = spec.backend, spec.target
    if machine is not None and machine.gpus:
        target = machine.gpus[0].capability
        backend = backend_for(machine) if backend == "tensorrt-rtx" else backend
    return build_engines_command(bundle, backend, target)


def backend_for(machine: Machine) -> EngineBackend:
    """TensorRT-RTX where it exists and knows the GPU: it installs from PyPI alone."""
    known = all(gpu.capability in TENSORRT_RTX_TARGETS for gpu in machine.gpus[:1])
    exists = machine.platform in TENSORRT_RTX_PLATFORMS
    return "tensorrt-rtx" if known and exists else "tensorrt"


def _problems_of(
    subject: str, spec: EngineSpec, machine: Machine, bundle: str | Path
) -> list[Problem]:
    problems = []
    what = f"{subject} ({spec.backend} {spec.backend_version}, {spec.target}, {spec.platform})"
    remedy = f"build it here: {rebuild_command(spec, machine, bundle)}"
    if spec.platform != machine.platform:
        problems.append(
            Problem(f"{what} was built for {spec.platform}; this is {machine.platform}", remedy)
        )
    found = machine.library_version(spec.backend)
    if found is None:
        problems.append(
            Problem(
                f"{what} needs {spec.backend} {spec.backend_version}, which is not installed",
                _install(spec, machine),
            )
        )
    elif not same_version(spec.backend_version, found):
        problems.append(
            Problem(
                f"{what} needs {spec.backend} {spec.backend_version}, the version that built it; "
                f"installed is {found}",
                # A Jetson's TensorRT belongs to its JetPack.
                remedy
                if machine.platform == "linux-aarch64"
                else f"{remedy}; or: {_install(spec, machine)}",
            )
        )
    if not machine.gpus:
        why = machine.no_gpu or Problem("none was found")
        cause = f"{what} needs a GPU of compute capability {spec.target}: {why.cause}"
        problems.append(Problem(cause, why.remedy))
    elif not any(gpu.capability == spec.target for gpu in machine.gpus):
        here = ", ".join(f"{gpu.name} ({gpu.capability})" for gpu in machine.gpus)
        problems.append(
            Problem(
                f"{what} needs a GPU of compute capability {spec.target}; here is {here}", remedy
            )
        )
    return problems


def _set_problems(
    specs: Sequence[EngineSpec], roles: dict[str, None], machine: Machine, bundle: str | Path
) -> list[Problem]:
    first = specs[0]  # they differ in nothing that matters here but the role
    folder = Path(first.path).parent
    problems = _problems_of(str(folder), first, machine, bundle)
    if missing := [role for role in roles if role not in {spec.role for spec in specs}]:
        command = rebuild_command(first, machine, bundle)
        problems.append(
            Problem(
                f"{folder} lacks the engine of {', '.join(missing)}",
                f"build it: {command}",
            )
        )
    return problems


def _engine_set(specs: Sequence[EngineSpec], machine: Machine) -> EngineSet:
    first = specs[0]
    gpu = next(gpu for gpu in machine.gpus if gpu.capability == first.target)
    return EngineSet(
        first.backend, first.backend_version, first.target, first.precision, tuple(specs), gpu
    )


def _install(spec: EngineSpec, machine: Machine) -> str:
    """The command that installs the version that built an engine, of the wheel that is here."""
    default = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu12"}[spec.backend]
    here = (name for name in LIBRARIES[spec.backend] if name in machine.packages)
    return f"pip install '{next(here, default)}=={spec.backend_version}'"


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()
