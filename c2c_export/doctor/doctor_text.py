"""``doctor`` for people: tables for what is here, then one line for each thing that is missing."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from c2c_export.doctor.doctor import Ability, MachineReport
from c2c_export.doctor.doctor_bundle import BundleReport
from c2c_runtime.bundle.manifest import Manifest
from c2c_runtime.errors import Problem

_CAN = {"yes": "[green]yes[/]", "engines": "engines only", "no": "[yellow]no[/]"}


def print_machine(console: Console, report: MachineReport) -> None:
    """Machine, packages, backends, and what to do about what is missing."""
    console.print(_machine(report))
    console.print(_packages(report))
    console.print(_backends(report))
    if report.conflicts:
        _print_problems(console, "These packages break each other:", report.conflicts)
    for backend in report.backends:
        missing = dict.fromkeys((*backend.build.problems, *backend.run.problems))
        if missing:
            _print_problems(console, f"{backend.name}:", missing)
        if backend.note:
            console.print(f"{backend.name}: {backend.note}", markup=False, soft_wrap=True)


def print_bundle(console: Console, report: BundleReport) -> None:
    """The bundle, its engines, what ``run`` would do here, and what to do."""
    if report.manifest is None:
        return  # the error that follows says why
    console.print(_bundle(report, report.manifest))
    if report.engines:
        console.print(_engines(report))
        if report.choice is not None and report.choice.problems:
            _print_problems(console, "Engines that do not run here:", report.choice.problems)
    if report.damage:
        return
    console.print(what_run_does(report), markup=False, soft_wrap=True)
    if report.advice:
        _print_problems(console, "What to do:", report.advice)


def what_run_does(report: BundleReport) -> str:
    """What ``c2c-export run`` would do with the bundle on this machine, in one line."""
    choice = report.choice
    command = f"c2c-export run {report.path}"
    if choice is not None and choice.engines is not None:
        found = choice.engines
        return (
            f"`{command}` answers with the {found.backend} {found.backend_version} engines for "
            f"{found.target}, {found.precision}, on GPU {found.gpu.index} ({found.gpu.name})"
        )
    if choice is not None and choice.ort_dialect is not None:
        where = "the GPU" if choice.device == "cuda" else "the CPU"
        return (
            f"`{command}` answers with ONNX Runtime on {where}, from the graphs of the dialect "
            f"{choice.ort_dialect}"
        )
    reasons = "".join(f"\n  - {problem}" for problem in choice.problems) if choice else ""
    return f"`{command}` cannot answer here (exit code 5):{reasons}"


def _machine(report: MachineReport) -> Table:
    machine = report.machine
    table = Table(show_header=False, title=f"c2c-export {report.version}")
    table.add_row("platform", f"{machine.platform}, Python {machine.python}")
    table.add_row("memory", f"{_size(report.available_bytes)} free of {_size(report.memory_bytes)}")
    table.add_row("disk", f"{_size(report.disk_free_bytes)} free")
    table.add_row("NVIDIA driver", _driver(report))
    for gpu in machine.gpus:
        table.add_row(
            f"GPU {gpu.index}",
            f"{gpu.name}, {gpu.capability}, {_size(gpu.free_bytes)} free of {_size(gpu.memory_bytes)}",
        )
    if machine.no_gpu is not None:
        table.add_row("GPU", machine.no_gpu.cause)
    table.add_row("CUDA runtime", machine.cuda_version or "none: cuda-bindings brings it")
    for module, probe in report.probes.items():
        answer = probe.answer
        text = ", ".join(answer) if isinstance(answer, list) else answer
        label = "ONNX Runtime" if module == "onnxruntime" else module
        table.add_row(label, text or f"does not load: {probe.failure}")
    return table


def _driver(report: MachineReport) -> str:
    machine = report.machine
    if machine.driver_version is None and machine.driver_cuda_version is None:
        return "none"
    return (
        f"{machine.driver_version or 'version unknown'}, serves CUDA {machine.driver_cuda_version}"
    )


def _packages(report: MachineReport) -> Table:
    table = Table("extra", "what for", "installed", "missing or too old", title="Packages")
    for extra in report.extras:
        there = [f"{package.name} {package.version}" for package in extra.packages if package.ok]
        missing = [
            f"{package.name} {package.needs}"
            + (f" (is {package.version})" if package.version else "")
            for package in extra.packages
            if not package.ok
        ]
        table.add_row(extra.name or "(none)", extra.purpose, ", ".join(there), ", ".join(missing))
    return table


def _backends(report: MachineReport) -> Table:
    table = Table("backend", "builds here", "runs here", title="Backends")
    for backend in report.backends:
        table.add_row(backend.name, _can(backend.build), _can(backend.run))
    return table


def _bundle(report: BundleReport, manifest: Manifest) -> Table:
    table = Table(show_header=False, title=report.path)
    dialects = sorted({graph.dialect for graph in manifest.graphs})
    table.add_row("pair", manifest.pair.name)
    table.add_row("precision", manifest.precision)
    table.add_row("graphs", ", ".join(dialects))
    table.add_row("engines", str(len(manifest.engines)) if manifest.engines else "none")
    table.add_row(
        "memory to answer",
        f"{_size(report.weights_bytes)} of weights, {_size(report.caches_bytes)} of caches",
    )
    files = f"{len(manifest.files)} as built" if report.hashed else "sizes as built, not read"
    table.add_row("files", "[red]damaged[/]" if report.damage else files)
    return table


def _engines(report: BundleReport) -> Table:
    table = Table(
        "engine", "backend", "version", "target", "platform", "runs here", title="Engines"
    )
    for engine in report.engines:
        spec = engine.spec
        table.add_row(
            spec.role,
            spec.backend,
            spec.backend_version,
            spec.target,
            spec.platform,
            _CAN["no" if engine.problems else "yes"],
        )
    return table


def _print_problems(console: Console, headline: str, problems: Iterable[Problem]) -> None:
    text = "".join(f"\n  - {problem}" for problem in problems)
    console.print(f"{headline}{text}", markup=False, soft_wrap=True)


def _can(ability: Ability) -> str:
    return _CAN[ability.can]


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "unknown"
    gib = num_bytes / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{num_bytes / 2**20:.1f} MiB"
