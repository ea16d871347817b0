"""The chain on a real GPU against eager PyTorch's stored results and against the CPU.

Skipped, with the reason, where there is no GPU. So far these tests have never run on one.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tiny_bundles import build, copied, made_once, pair_paths, text_pair

from c2c_export.building.build_target import BuildTarget
from c2c_runtime import Session
from c2c_runtime.answers.batch import answer_batch
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.backends.cuda import Cuda
from c2c_runtime.backends.ort_cuda_backend import PROVIDER
from c2c_runtime.backends.trt_backend import TensorRTBackend
from c2c_runtime.bundle.precision import parse_precision
from c2c_runtime.checks.verification import verify
from c2c_runtime.errors import CapacityError, UsageError
from c2c_runtime.machine.machine import detect_machine

pytestmark = pytest.mark.gpu

IDS = [7 * n % 400 + 1 for n in range(40)]
DEVICES = ["tensorrt-rtx", "tensorrt", "cuda"]


def _target(device: str, precision: str) -> BuildTarget:
    """What to build for a device of this machine; skips with the reason where it has none."""
    machine = detect_machine()
    if device == "cuda":
        ort = pytest.importorskip("onnxruntime")
        if PROVIDER not in ort.get_available_providers():
            pytest.skip(f"the installed onnxruntime has no {PROVIDER}")
        return BuildTarget("ort", ("cuda",), "tensorrt", parse_precision(precision))
    from c2c_export.building.build_target import build_target
    from c2c_runtime.errors import UnavailableError

    capability = machine.gpus[0].capability
    # A workstation's bundle: engines for another card lie beside those for this one.
    other = "sm86" if capability != "sm86" else "sm89"
    targets = (other, capability) if device == "tensorrt-rtx" else (capability,)
    try:
        return build_target(device, targets, precision=precision)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[f"{d} {p}" for d in DEVICES for p in ("fp32", "fp16")])
def bundle(request, tmp_path_factory):
    device, precision = request.param.split()
    target = _target(device, precision)

    def make(directory):
        text_pair(directory / "pair", hidden=64)
        build(
            pair_paths(directory / "pair"),
            directory / "bundle",
            max_seq_len=64,
            max_prompt_len=16,
            max_batch_size=2,
            target=target,
        )

    return made_once(tmp_path_factory, f"gpu_{device}_{precision}", make) / "bundle"


@pytest.fixture
def session(bundle):
    with Session.open(bundle) as opened:
        yield opened


def greedy(session, ids=IDS, num_tokens=20, **options):
    options = GenerationOptions(max_new_tokens=num_tokens, ignore_eos=True, **options)
    return session.answer(session.sections_of_ids(ids), options).finish().token_ids


def test_all_stages_meet_eager(session):
    """Caches of Sharer, clean and fused Receiver, a second section, logits, greedy ids."""
    failed = [item for item in verify(session) if not item.ok]
    assert not failed


@pytest.mark.parametrize("num_tokens", [1, 2, 16, 17, 40])
def test_prompts_of_any_length_meet_the_cpu(bundle, session, num_tokens):
    sections = session.sections_of_ids(IDS[:num_tokens])
    logits = session.conversation().prefill(sections).copy()
    with Session.open(bundle, device="cpu") as cpu:
        expected = cpu.conversation().prefill(sections).copy()
    cosine = logits @ expected / np.linalg.norm(logits) / np.linalg.norm(expected)
    assert cosine > 0.999


def test_caches_are_one_memory_before_and_after(session):
    if not isinstance(session.opened.backend, TensorRTBackend):
        pytest.skip("what ONNX Runtime does inside is its own business")
    for role in [graph.role for graph in session.bundle.manifest.graphs]:
        graph = session.opened.graph(role)
        caches = {name: shared for name, shared in graph.is_in_place.items() if "present" in name}
        assert caches
        assert all(caches.values()), role


def test_a_recorded_step_equals_a_plain_one(session, monkeypatch):
    if not isinstance(session.opened.backend, TensorRTBackend):
        pytest.skip("only engines are recorded")
    conversation = session.conversation()
    conversation.prefill(session.sections_of_ids(IDS))
    recorded = [conversation.decode([n]).copy() for n in range(5)]
    assert conversation._receiver._step.is_recorded
    monkeypatch.setattr("c2c_runtime.backends.trt_backend.BoundEngine._record", lambda bound: None)
    conversation = session.conversation()
    conversation.prefill(session.sections_of_ids(IDS))
    plain = [conversation.decode([n]).copy() for n in range(5)]
    assert not conversation._receiver._step.is_recorded
    np.testing.assert_array_equal(recorded, plain)


def test_a_thousand_steps_take_no_memory(session):
    cuda = Cuda()
    conversation = session.conversation()
    conversation.prefill(session.sections_of_ids(IDS))

    def steps(number):
        for _ in range(number):
            conversation.receiver.truncate(40, 40)
            conversation.decode([3]).candidates(1)

    steps(10)
    before = cuda.free_bytes()
    steps(1000)
    assert cuda.free_bytes() == before


def test_two_conversations_at_once_keep_apart(session):
    prompts = [IDS, IDS[::-1]]
    alone = [greedy(session, ids) for ids in prompts]
    together: dict[int, tuple[int, ...]] = {}

    def answer(index):
        together[index] = greedy(session, prompts[index])

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[index] for index in range(2)] == alone


def test_rows_of_a_batch_equal_their_single_runs(session):
    prompts = [IDS[:n] for n in (3, 20, 9)]
    options = GenerationOptions(max_new_tokens=12, ignore_eos=True)
    found = answer_batch(session, [session.sections_of_ids(ids) for ids in prompts], options)
    assert [item.token_ids for item in found] == [greedy(session, ids, 12) for ids in prompts]


def test_the_last_slot_is_used_and_no_slot_after_it(session):
    conversation = session.conversation()
    conversation.prefill(session.sections_of_ids(IDS))
    for token_id in range(64 - 40):
        conversation.decode([token_id])
    before = conversation.receiver.valid(0, "key")
    with pytest.raises(CapacityError):
        conversation.decode([5])
    np.testing.assert_array_equal(conversation.receiver.valid(0, "key"), before)


def test_a_used_buffer_answers_like_a_fresh_one(session):
    fresh = greedy(session, IDS[:9])
    conversation = session.conversation()
    for ids in (IDS, IDS[:9]):
        conversation.reset()
        options = GenerationOptions(max_new_tokens=20, ignore_eos=True)
        sections = session.sections_of_ids(ids)
        used = session.answer(sections, options, conversation).finish().token_ids
    assert used == fresh


def test_caches_come_out_and_go_in(session):
    source, target = session.conversation(), session.conversation()
    source.prefill(session.sections_of_ids(IDS))
    layers = range(len(source.receiver.buffers) // 2)
    target.receiver.load(
        [tuple(source.receiver.valid(layer, kind) for kind in ("key", "value")) for layer in layers]
    )
    np.testing.assert_array_equal(target.decode([9]).copy(), source.decode([9]).copy())


def test_the_callers_stream_is_used(bundle, session):
    cuda = Cuda()
    stream = cuda.create_stream()
    with Session.open(bundle, cuda_stream=stream) as other:
        assert greedy(other) == greedy(session)
    cuda.wait(stream)  # still the caller's
    cuda.destroy_stream(stream)


def test_closing_gives_the_memory_back(bundle):
    cuda = Cuda()
    with Session.open(bundle) as session:
        greedy(session)  # what the libraries load once stays loaded
    before = cuda.free_bytes()
    with Session.open(bundle) as session:
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))
        assert cuda.free_bytes() < before
    assert cuda.free_bytes() == before
    with pytest.raises(UsageError, match="closed"):
        conversation.decode([3])


def test_one_bundle_runs_on_its_targets(bundle, session, tmp_path):
    """Of the engines for two cards those for this one are chosen."""
    targets = {engine.target for engine in session.bundle.manifest.engines}
    if len(targets) < 2:
        pytest.skip("this backend builds for the GPU that is here only")
    assert detect_machine().gpus[0].capability in targets
    moved = copied(bundle, tmp_path / "moved")
    with Session.open(moved) as other:
        assert greedy(other) == greedy(session)
