"""From a bundle and a wish to the backend that runs it here."""

from __future__ import annotations

from c2c_runtime.backends.backend import Backend
from c2c_runtime.backends.ort_backend import OrtBackend
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.machine.backend_choice import Wish, choose_backend
from c2c_runtime.machine.machine import detect_machine


def open_backend(
    bundle: Bundle,
    wish: Wish = "auto",
    *,
    num_threads: int | None = None,
    cuda_stream: int | None = None,
) -> Backend:
    """The backend that ``choose_backend`` names. ``UnavailableError`` if there is none.

    ``num_threads``: of a CPU. ``cuda_stream``: of the caller, for GPUs.
    """
    if wish == "cpu" or (wish == "auto" and _is_for_cpus(bundle)):
        return OrtBackend(bundle, num_threads)  # known without a look at the machine
    choice = choose_backend(bundle.manifest, detect_machine(), bundle.root, wish)
    device = choice.require(bundle.root)
    if device == "tensorrt" and choice.engines is not None:
        from c2c_runtime.backends.trt_backend import TensorRTBackend

        engines = {spec.role: spec for spec in choice.engines.engines}
        return TensorRTBackend(bundle, engines, stream=cuda_stream, device=choice.engines.gpu.index)
    if device == "cuda":
        from c2c_runtime.backends.ort_cuda_backend import OrtCudaBackend

        return OrtCudaBackend(bundle, stream=cuda_stream)
    return OrtBackend(bundle, num_threads)


def _is_for_cpus(bundle: Bundle) -> bool:
    manifest = bundle.manifest
    return not manifest.engines and all(graph.dialect == "ort" for graph in manifest.graphs)
