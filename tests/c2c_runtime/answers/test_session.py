"""What sessions share, when they load and check, and that answering does not grow."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import numpy as np
import pytest
from tiny_bundles import copied, text_bundle

from c2c_runtime import Batch, GenerationOptions, Session, answer_batch
from c2c_runtime.backends.ort_backend import OrtBackend, OrtGraph
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import BundleError, UsageError
from c2c_runtime.machine.cores import num_usable_cores
from c2c_runtime.text.tokenizer import Tokenizer

IDS = [int(i) for i in np.random.default_rng(5).integers(10, 400, 30)]
GREEDY = GenerationOptions(max_new_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return text_bundle(tmp_path_factory) / "bundle"


@pytest.fixture
def loads(monkeypatch):
    """The path of every graph that is loaded."""
    gc.collect()  # an earlier file's conversations on this bundle would lend their graphs
    made = []
    load = OrtGraph.__init__
    monkeypatch.setattr(
        OrtGraph,
        "__init__",
        lambda self, path, *args: (made.append(path), load(self, path, *args))[1],
    )
    return made


def answer(session):
    return session.answer(session.sections_of_ids(IDS), GREEDY).finish().token_ids


def test_sessions_of_one_bundle_share_their_graphs(bundle, loads):
    with Session.open(bundle) as one, Session.open(bundle) as other:
        assert answer(one) == answer(other)
        assert sorted(path.stem for path in loads) == ["fuser", "receiver", "sharer1"]
        one.close()
        assert len(answer(other)) == 6  # what one session closes stays with the other
        with Session.open(bundle, num_threads=num_usable_cores() + 1) as alone:
            assert alone.opened.graph(names.RECEIVER) is not other.opened.graph(names.RECEIVER)
    del one, other, alone
    gc.collect()
    loads.clear()
    with Session.open(bundle):
        assert len(loads) == 1, "a graph outlived everybody who used it"


def test_sessions_opened_at_once_load_once(bundle, loads):
    opened: list[Session] = []
    threads = [
        threading.Thread(target=lambda: opened.append(Session.open(bundle, preload=True)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer(session) for session in opened}) == 1
    assert len(loads) == 3


def test_another_bundle_in_the_same_place_is_not_mistaken(bundle, tmp_path):
    place = copied(bundle, tmp_path / "b")
    with Session.open(place) as old:
        place.rename(tmp_path / "old")
        copied(bundle, place)
        with Session.open(place) as new:
            assert new.opened.graph(names.RECEIVER) is not old.opened.graph(names.RECEIVER)


def test_a_file_is_checked_before_what_it_holds_is_used(bundle, tmp_path):
    damaged = copied(bundle, tmp_path / "b")
    weights = damaged / "graphs/ort/sharer1.onnx.data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with Session.open(damaged) as session:
        alone = session.answer(
            session.sections_of_ids(IDS), GenerationOptions(max_new_tokens=3, mode="receiver")
        )
        assert len(alone.finish().token_ids) == 3
        for _ in range(2):
            with pytest.raises(BundleError, match=r"sharer1.onnx.data is not the file"):
                answer(session)
    for eager in ({"preload": True}, {"warm_up": True}):
        with pytest.raises(BundleError, match=r"sharer1.onnx.data is not the file"):
            Session.open(damaged, **eager)
    with Session.open(damaged, check_hashes=False) as session:
        assert len(answer(session)) == 6


def test_tokenizers_load_when_they_are_needed(bundle, monkeypatch):
    loaded = []
    load = Tokenizer.load.__func__
    monkeypatch.setattr(
        Tokenizer,
        "load",
        classmethod(lambda cls, path, *args: (loaded.append(path.name), load(cls, path, *args))[1]),
    )
    with Session.open(bundle) as session:
        assert session.has_tokenizer
        assert loaded == []
        session.sections_of_text("Why is the sky blue?")
        assert loaded == ["receiver"]
        session.sections_of_chat([{"role": "user", "content": "Why?"}])
        assert sorted(loaded) == ["receiver", "sharer1"]


def test_a_warm_session_answers_like_a_cold_one(bundle, loads):
    with Session.open(bundle) as cold:
        expected = answer(cold)
    gc.collect()
    with Session.open(bundle, warm_up=True) as session:
        num_loaded = len(loads)
        assert answer(session) == expected
        assert len(loads) == num_loaded


def test_nothing_is_kept_of_a_warm_up(bundle, loads):
    with Session.open(bundle, warm_up=True, prefix_bytes=2**20) as session:
        assert len(loads) == 3
        assert (len(session.opened.prefixes), session.opened.prefixes.size_bytes) == (0, 0)


def test_decode_steps_do_not_grow(bundle):
    """A thousand steps leave no Python object behind."""
    with Session.open(bundle) as session:
        conversation = session.conversation()
        prompt = session.sections_of_ids(IDS)

        def steps(num_rounds):
            for _ in range(num_rounds):
                token_id = int(np.argmax(conversation.prefill(prompt)))
                for _ in range(25):
                    token_id = int(np.argmax(conversation.decode([token_id])))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = steps(2)
            assert steps(40) - before < 16_384  # bytes; one float a step would be 24,000
        finally:
            tracemalloc.stop()


def test_a_graphs_threads_rest_when_its_run_is_over(bundle):
    """Else they spin for a while on the cores that the chain's next graph needs."""
    with Session.open(bundle, device="cpu") as session:
        for role in (names.RECEIVER, *session.opened.fusing_roles):
            options = session.opened.graph(role).session.get_session_options()
            assert options.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.parametrize("num_threads", [0, -1, 2000, 10**30])
def test_more_threads_than_the_machine_can_run_are_refused(bundle, cli, num_threads):
    for call in (
        lambda: Session.open(bundle, num_threads=num_threads),
        lambda: OrtBackend(Bundle.open(bundle), num_threads),
    ):
        with pytest.raises(UsageError, match="num_threads") as error:
            call()
        assert error.value.remedy
    called = cli("run", bundle, "hi", "--threads", num_threads)
    assert called.code == 2
    assert called.out == ""


def test_threads_are_cores_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 8}, raising=False)
    cpus, groups = tmp_path / "cpus", tmp_path / "groups"
    assert num_usable_cores(cpus, groups) == 5  # nothing tells more
    for cpu in range(4):  # two cores of two threads each
        (cpus / f"cpu{cpu}/topology").mkdir(parents=True)
        siblings = f"{cpu % 2},{cpu % 2 + 2}\n"
        (cpus / f"cpu{cpu}/topology/thread_siblings_list").write_text(siblings)
    assert num_usable_cores(cpus, groups) == 3
    (groups / "cpu").mkdir(parents=True)
    (groups / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (groups / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert num_usable_cores(cpus, groups) == 3
    (groups / "cpu/cpu.cfs_quota_us").write_text("150000\n")
    assert num_usable_cores(cpus, groups) == 2
    (groups / "cpu.max").write_text("max 100000\n")
    assert num_usable_cores(cpus, groups) == 3
    (groups / "cpu.max").write_text("50000 100000\n")
    assert num_usable_cores(cpus, groups) == 1


def test_a_closed_session_answers_no_more_and_loads_nothing(bundle, loads):
    session = Session.open(bundle)
    conversation = session.conversation()
    streamed = iter(session.answer(session.sections_of_ids(IDS), GREEDY, conversation))
    next(streamed)
    unfinished = session.conversation()
    session.close()
    session.close()
    num_loaded = len(loads)
    sections = session.sections_of_ids(IDS)
    calls = [
        session.conversation,
        session.warm_up,
        lambda: answer(session),
        lambda: next(streamed),
        lambda: session.answer(sections, GREEDY, conversation).finish(),
        lambda: unfinished.prefill(sections),
        lambda: unfinished.decode([5]),
        lambda: unfinished.load_sharers(),
        lambda: unfinished.append([5], [[5]], 1),
        lambda: session.sharer(1),
        lambda: answer_batch(session, [sections], GREEDY),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="closed") as error:
            call()
        assert error.value.remedy
    assert len(loads) == num_loaded


def test_a_conversation_or_batch_of_another_session_is_refused(bundle):
    with Session.open(bundle) as one, Session.open(bundle) as other:
        sections = one.sections_of_ids(IDS)
        with pytest.raises(UsageError, match="another session"):
            one.answer(sections, GREEDY, other.conversation())
        with pytest.raises(UsageError, match="another session"):
            one.ask("hello", GREEDY, other.conversation())
        with pytest.raises(UsageError, match="another session"):
            answer_batch(one, [sections], GREEDY, Batch(other))
