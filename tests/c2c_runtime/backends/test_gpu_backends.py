"""The runtime's own part of running on a GPU, on the stand-ins of ``fake_cuda``: no GPU, no TensorRT.

What engines compute is not tested here; the tests marked gpu do that where there is one.
"""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_cuda import CALLERS_STREAM
from fake_engines import OrtOnDevice, add_engines, install, open_engines
from fake_machines import WORKSTATION
from tiny_bundles import build, copied, made_once, pair_paths, rehashed, text_bundle, text_pair

from c2c_export.building.build_target import BuildTarget
from c2c_runtime import Session
from c2c_runtime.answers.batch import answer_batch
from c2c_runtime.answers.generation import GenerationOptions
from c2c_runtime.answers.sampling import Sampler, SamplingOptions
from c2c_runtime.backends import devices
from c2c_runtime.bundle import bundle as bundles
from c2c_runtime.bundle.bundle import Bundle, sha256_of
from c2c_runtime.bundle.precision import FP32
from c2c_runtime.errors import BundleError, C2CError, CapacityError, UnavailableError, UsageError

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

KINDS = ["engines, in place", "engines, copied back", "onnxruntime"]
IDS = [7 * n % 400 + 1 for n in range(40)]


@pytest.fixture
def bundle(kind, tmp_path, tmp_path_factory):
    """A tiny bundle with stand-ins for engines; 40 ids are three calls of at most 16 tokens."""
    path = copied(text_bundle(tmp_path_factory) / "bundle", tmp_path / "bundle")
    return Bundle.open(add_engines(path, is_in_place=kind != "engines, copied back"))


@pytest.fixture
def opened(kind):
    """Opens the backend under test on a bundle."""
    return OrtOnDevice if kind == "onnxruntime" else open_engines


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed, the last part of each."""
    found = []

    def note(path, on_read=None):
        found.append(path.name if path.suffix != ".engine" else f"{path.parent.name}/{path.name}")
        return sha256_of(path, on_read)

    monkeypatch.setattr(bundles, "sha256_of", note)
    return found


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def fakes(monkeypatch):
    return install(monkeypatch)


def answers(
    session: Session, prompts=(IDS, IDS[:1], IDS[5:30]), **options
) -> list[tuple[int, ...]]:
    options = GenerationOptions(max_new_tokens=20, ignore_eos=True, **options)
    return [
        session.answer(session.sections_of_ids(ids), options).finish().token_ids for ids in prompts
    ]


def test_it_answers_as_the_cpu_does(bundle, opened, fakes):
    with Session(bundle) as cpu, Session(bundle, opened(bundle)) as gpu:
        assert answers(gpu) == answers(cpu)
        assert answers(gpu, mode="receiver") == answers(cpu, mode="receiver")


def test_every_cache_is_the_cpus(bundle, opened, fakes):
    sections = [*Session(bundle).sections_of_ids(IDS, [(19, 1), (1, -1), (15, 1), (5, -1)])]
    with Session(bundle) as cpu, Session(bundle, opened(bundle)) as gpu:
        conversations = [session.conversation() for session in (cpu, gpu)]
        logits = [c.prefill(sections).copy() for c in conversations]
        np.testing.assert_array_equal(logits[1], logits[0])
        for expected, found in zip(
            [conversations[0].receiver, *conversations[0].sharers],
            [conversations[1].receiver, *conversations[1].sharers],
            strict=True,
        ):
            for key in expected.buffers:
                np.testing.assert_array_equal(found.valid(*key), expected.valid(*key))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_recorded_step_equals_a_plain_one(bundle, opened, fakes):
    cuda, trt = fakes
    with Session(bundle, opened(bundle)) as session:
        recorded = answers(session)
    num_replays = cuda.num_replays
    trt.can_capture = False
    with Session(bundle, opened(bundle)) as session:
        assert answers(session) == recorded
    assert num_replays > 0
    assert cuda.num_replays == num_replays


def test_a_thousand_steps_allocate_nothing(bundle, opened, fakes):
    with Session(bundle, opened(bundle)) as session:
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))
        conversation.decode([3])
        conversation.decode([3])
        held = fakes[0].num_allocations, fakes[1].num_contexts
        for _ in range(1000):
            conversation.receiver.truncate(41, 41)
            conversation.decode([3]).candidates(1)
        assert (fakes[0].num_allocations, fakes[1].num_contexts) == held


def test_two_conversations_at_once_keep_apart(bundle, opened, fakes):
    with Session(bundle) as cpu, Session(bundle, opened(bundle)) as gpu:
        prompts = [cpu.sections_of_ids(IDS), cpu.sections_of_ids(IDS[::-1])]
        found: list[list[list[int]]] = []
        for session in (cpu, gpu):
            conversations = [session.conversation() for _ in prompts]
            steps = [
                [int(np.argmax(c.prefill(prompt)))]
                for c, prompt in zip(conversations, prompts, strict=True)
            ]
            for _ in range(10):
                for conversation, ids in zip(conversations, steps, strict=True):
                    ids.append(int(np.argmax(conversation.decode(ids[-1:]))))
            found.append(steps)
        assert found[0] == found[1]


def test_the_last_slot_is_used_and_no_slot_after_it(bundle, opened, fakes):
    with Session(bundle, opened(bundle)) as session:
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))
        for token_id in range(64 - 40):
            conversation.decode([token_id])
        before = conversation.receiver.valid(0, "key")
        with pytest.raises(CapacityError, match="room for 64 tokens"):
            conversation.decode([5])
        np.testing.assert_array_equal(conversation.receiver.valid(0, "key"), before)


def test_caches_move_between_devices(bundle, opened, fakes):
    with Session(bundle) as cpu, Session(bundle, opened(bundle)) as gpu:
        source, target = cpu.conversation(), gpu.conversation()
        source.prefill(cpu.sections_of_ids(IDS))
        layers = range(len(source.receiver.buffers) // 2)
        target.receiver.load(
            [
                tuple(source.receiver.valid(layer, kind) for kind in ("key", "value"))
                for layer in layers
            ]
        )
        np.testing.assert_array_equal(target.decode([9]), source.decode([9]))


def test_the_callers_stream_is_used_and_not_destroyed(bundle, opened, fakes):
    backend = opened(bundle, stream=CALLERS_STREAM)
    with Session(bundle) as cpu, Session(bundle, backend) as gpu:
        assert answers(gpu) == answers(cpu)
    assert not fakes[0].streams


def test_closing_gives_everything_back(kind, bundle, opened, fakes):
    cuda, _ = fakes
    with Session(bundle, opened(bundle)) as session:
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))
        for _ in range(3):
            conversation.decode([3])
        assert cuda.device_memory
        assert cuda.streams
        assert bool(cuda.recordings) == (kind != "onnxruntime")
    assert not any((cuda.device_memory, cuda.streams, cuda.recordings))
    with pytest.raises(UsageError, match="closed"):
        conversation.decode([3])
    del conversation, session
    gc.collect()
    assert not cuda.pinned_memory


def test_a_conversation_that_is_dropped_gives_its_memory_back(bundle, opened, fakes):
    cuda, _ = fakes
    with Session(bundle, opened(bundle)) as session:
        answers(session)
        gc.collect()
        held = cuda.used_bytes, len(cuda.streams), len(cuda.pinned_memory)
        answers(session)
        gc.collect()
        assert (cuda.used_bytes, len(cuda.streams), len(cuda.pinned_memory)) == held == (0, 0, 0)


def test_a_gpu_without_room_says_so_and_keeps_what_is_there(bundle, opened, monkeypatch):
    cuda, _ = install(monkeypatch, capacity_bytes=10**6)
    with Session(bundle, opened(bundle)) as session:
        first = session.conversation()
        first.prefill(session.sections_of_ids(IDS))
        logits = first.decode([3]).copy()
        with pytest.raises(UnavailableError, match="not enough GPU memory") as caught:
            _fill_with_conversations(session)
        assert "--max-seq-len" in str(caught.value)
        first.receiver.truncate(40, 40)
        np.testing.assert_array_equal(first.decode([3]), logits)
    assert not cuda.device_memory


def _fill_with_conversations(session: Session) -> None:
    held = []
    while True:
        held.append(session.conversation())


@pytest.mark.parametrize("kind", KINDS[:1])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_engine_is_never_deserialised(bundle, opened, fakes, damage):
    path = bundle.path_of(bundle.manifest.engines[0].path)
    content = path.read_bytes()
    with Session(bundle, opened(bundle)) as session:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:-1] if damage == "truncated" else b"[" + content[1:])
        with pytest.raises(BundleError, match="build-engines"):
            session.opened.graph(bundle.manifest.engines[0].role)


@pytest.mark.parametrize("kind", KINDS[:1])
def test_only_files_that_are_used_are_hashed(bundle, fakes, hashed, monkeypatch):
    """Of engines for several targets one is read; the graphs that they were built from are not."""
    root = add_engines(bundle.root, target="sm120")
    cache = "engines/tensorrt-rtx-1.7.1-sm120/timing.cache"
    (root / cache).write_bytes(b"timings")
    rehashed(root, cache)
    monkeypatch.setattr(devices, "detect_machine", lambda: WORKSTATION)
    with Session.open(root, device="tensorrt"):
        assert not [name for name in hashed if name.endswith((".engine", ".onnx", ".cache"))]
        assert "tokenizer.json" in hashed
    with Session.open(root, device="cpu", preload=True):
        assert "receiver.onnx" in hashed
        assert not [name for name in hashed if name.endswith((".engine", ".cache"))]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_rows_of_a_batch_equal_their_single_runs(kind, tmp_path, tmp_path_factory, fakes):
    """Row 0 and all rows together begin at one address; memory beside them must hold either."""

    def make(directory):
        text_pair(directory / "pair")
        build(
            pair_paths(directory / "pair"),
            directory / "bundle",
            max_seq_len=64,
            max_prompt_len=16,
            max_batch_size=3,
        )

    source = made_once(tmp_path_factory, "text_batch_3", make) / "bundle"
    path = copied(source, tmp_path / "bundle")
    bundle = Bundle.open(add_engines(path, is_in_place=kind != "engines, copied back"))
    prompts = [IDS[:n] for n in (3, 20, 9, 33)]
    options = GenerationOptions(max_new_tokens=12, ignore_eos=True)
    with Session(bundle) as cpu, Session(bundle, open_engines(bundle)) as gpu:
        expected = [cpu.answer(cpu.sections_of_ids(ids), options).finish() for ids in prompts]
        found = answer_batch(gpu, [gpu.sections_of_ids(ids) for ids in prompts], options)
    assert [item.token_ids for item in found] == [item.token_ids for item in expected]


def test_every_thread_works_on_the_backends_gpu(bundle, opened, fakes):
    """Each thread's current GPU is GPU 0 until it selects another."""
    cuda, trt = fakes
    with Session(bundle, opened(bundle, device=1)) as session, ThreadPoolExecutor(1) as other:
        assert other.submit(answers, session).result() == answers(session)
        other.submit(gc.collect).result()
        conversation = other.submit(session.conversation).result()
        other.submit(conversation.prefill, session.sections_of_ids(IDS)).result()
        cuda.cudaSetDevice(0)  # the caller's own work
        conversation.decode([3])
    assert set(cuda.devices.values()) == {1}
    assert trt.devices <= {1}
    assert not cuda.device_memory


@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_others_put_into_the_callers_stream_is_run_and_not_recorded(
    bundle, opened, fakes, monkeypatch
):
    cuda, _ = fakes
    with Session(bundle, opened(bundle, stream=CALLERS_STREAM)) as session:
        num_told, ran = 0, []
        begin = cuda.cudaStreamBeginCapture

        def begin_and_interfere(stream, mode):
            nonlocal num_told
            answer = begin(stream, mode)
            num_told += 1
            cuda.put(CALLERS_STREAM, lambda: ran.append("once"))
            return answer

        monkeypatch.setattr(cuda, "cudaStreamBeginCapture", begin_and_interfere)
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))
        for _ in range(4):
            conversation.decode([3])
            assert len(ran) == num_told
    assert num_told > 0
    assert cuda.num_replays > 1


@pytest.mark.parametrize("kind", KINDS[:1])
def test_the_first_error_of_a_recording_is_the_one_that_is_raised(
    bundle, opened, fakes, monkeypatch
):
    cuda, _ = fakes
    with Session(bundle, opened(bundle)) as session:
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))  # its last token was a first step
        invalidated = cuda.cudaError_t.cudaErrorStreamCaptureInvalidated
        ended, end = [], cuda.cudaStreamEndCapture

        def end_invalidated(stream):
            end(stream)
            ended.append(stream)
            return invalidated, None

        monkeypatch.setattr(cuda, "cudaStreamEndCapture", end_invalidated)
        monkeypatch.setattr(cuda, "cudaMemcpyAsync", lambda *_: (cuda.cudaError_t(1),))
        with pytest.raises(C2CError, match="cudaMemcpyAsync failed"):
            conversation.decode([3])
    assert ended
    assert not any((cuda.captures, cuda.streams))


@pytest.mark.parametrize("kind", KINDS[:1])
def test_nobody_waits_for_the_gpu_while_a_step_is_recorded(bundle, opened, fakes, monkeypatch):
    """CUDA refuses that, and drops the recording."""
    cuda, _ = fakes
    failed = []
    with Session(bundle, opened(bundle)) as session:

        def open_another():
            try:
                session.conversation()
            except C2CError as error:
                failed.append(error)

        other = threading.Thread(target=open_another)
        begin = cuda.cudaStreamBeginCapture

        def begin_while_another_opens(stream, mode):
            answer = begin(stream, mode)
            other.start()
            other.join(0.2)
            return answer

        monkeypatch.setattr(cuda, "cudaStreamBeginCapture", begin_while_another_opens)
        conversation = session.conversation()
        conversation.prefill(session.sections_of_ids(IDS))
        conversation.decode([3])
        other.join()
        conversation.decode([3])
    assert failed == []
    assert cuda.num_replays == 2


@pytest.fixture
def gpu_bundle(tmp_path, tmp_path_factory):
    """A bundle whose graphs give their largest logits, with stand-ins for engines."""

    def make(directory):
        text_pair(directory / "pair")
        build(
            pair_paths(directory / "pair"),
            directory / "bundle",
            max_seq_len=64,
            max_prompt_len=16,
            target=BuildTarget("tensorrt-rtx", (), "tensorrt", FP32),
        )

    source = made_once(tmp_path_factory, "text_tensorrt", make) / "bundle"
    return Bundle.open(add_engines(copied(source, tmp_path / "bundle")))


@pytest.mark.parametrize(
    ("sampling", "num_bytes"),
    [
        (SamplingOptions(), 64 * 12),
        (SamplingOptions(temperature=0.8, top_k=20, seed=1), 64 * 12),
        (SamplingOptions(temperature=0.8, top_k=20, top_p=0.9, seed=1), 64 * 12),
        (SamplingOptions(temperature=0.8, seed=1), 64 * 12 + 424 * 4),
        (SamplingOptions(temperature=0.8, top_k=100, seed=1), 64 * 12 + 424 * 4),
        (SamplingOptions(repetition_penalty=1.2), 64 * 12 + 424 * 4),
    ],
    ids=["greedy", "top-k", "top-k and top-p", "all", "large top-k", "penalty"],
)
def test_a_step_copies_what_the_draw_needs(gpu_bundle, fakes, sampling, num_bytes):
    """Ids and values of 64 candidates where these decide, 424 logits where they do not; and the ids
    that are drawn are those that the CPU draws of all logits."""
    cuda, _ = fakes
    with Session(gpu_bundle) as cpu, Session(gpu_bundle, open_engines(gpu_bundle)) as gpu:
        assert answers(gpu, sampling=sampling) == answers(cpu, sampling=sampling)
        sampler, conversation = Sampler(sampling), gpu.conversation()
        sampler.next_id(conversation.prefill(gpu.sections_of_ids(IDS)), IDS)
        for _ in range(4):
            before = cuda.num_copied_to_host
            sampler.next_id(conversation.decode([3]), IDS)
            assert cuda.num_copied_to_host - before == num_bytes
