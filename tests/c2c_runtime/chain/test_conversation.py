"""A conversation's caches: what fits, what is kept, what is undone, and who shares nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from interrupts import interrupt_run
from tiny_bundles import text_bundle

from c2c_runtime import GenerationOptions, SamplingOptions, Session, answer_batch
from c2c_runtime.backends.ort_backend import BoundOrtGraph, OrtGraph
from c2c_runtime.bundle import names
from c2c_runtime.bundle.bundle import Bundle
from c2c_runtime.errors import CapacityError, UsageError

CAPACITY = 64  # of text_bundle, which prefills 16 tokens at a time
IDS = [int(i) for i in np.random.default_rng(3).integers(10, 400, CAPACITY)]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with Session.open(text_bundle(tmp_path_factory) / "bundle") as opened:
        yield opened


def section(session, ids):
    """One fused section of Receiver ids, as arguments of ``append``."""
    first = session.sections_of_ids([*ids, IDS[0]])[0]
    return first.receiver_ids, first.sharer_ids, first.mask


def lengths(conversation):
    caches = [conversation.receiver, *conversation.sharers]
    return [(cache.length, cache.next_position) for cache in caches]


def greedy(conversation, last, num_tokens=6):
    ids = [int(np.argmax(conversation.decode(last)))]
    while len(ids) < num_tokens:
        ids.append(int(np.argmax(conversation.decode(ids[-1:]))))
    return ids


def test_what_does_not_fit_is_refused_and_nothing_changes(session):
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:30]))
    before = lengths(conversation)
    with pytest.raises(CapacityError, match="64 tokens and holds 30"):
        conversation.append(*section(session, IDS[:35]))
    with pytest.raises(CapacityError):
        conversation.decode(IDS[:35])
    with pytest.raises(CapacityError):
        conversation.prefill(session.sections_of_ids([*IDS, 5]))
    assert lengths(conversation) == before
    fresh = session.conversation()
    fresh.append(*section(session, IDS[:30]))
    assert greedy(conversation, IDS[30:31]) == greedy(fresh, IDS[30:31])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, s, m: (r, s, 2), "mask 2"),
        (lambda r, s, m: (r, s, 0), "mask 0"),
        (lambda r, s, m: (r, [s[0][:-1]], m), "29 tokens for Sharer 1"),
        (lambda r, s, m: (r, [*s, s[0]], m), "2 Sharers"),
        (lambda r, s, m: ([*r[:-1], 424], s, m), "424"),
        (lambda r, s, m: (r, [[*s[0][:-1], 640]], m), "640"),
        (lambda r, s, m: (r, s, m, 29), "span 29"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused_and_nothing_changes(session, change, words):
    conversation = session.conversation()
    with pytest.raises(UsageError, match=words):
        conversation.append(*change(*section(session, IDS[:30])))
    assert lengths(conversation) == [(0, 0), (0, 0)]


@pytest.mark.parametrize("wrong", [-1, 424, 2**70, 5.5, "5", None])
def test_what_is_no_id_of_the_receiver_is_refused_wherever_ids_come_in(session, wrong):
    conversation = session.conversation()
    ids = (*IDS[:3], wrong)
    first, last = session.sections_of_ids(IDS[:5])
    fused = replace(first, receiver_ids=ids)
    others = replace(
        first, sharer_ids=((*first.sharer_ids[0][:3], 640 if wrong == 424 else wrong),)
    )
    end = replace(last, receiver_ids=ids, span=4)
    calls = [
        lambda: conversation.append(ids, first.sharer_ids, first.mask),
        lambda: conversation.extend([first, fused]),
        lambda: conversation.extend([first, others]),
        lambda: conversation.prefill([fused, last]),
        lambda: conversation.prefill([others, last]),
        lambda: conversation.prefill([first, end]),
        lambda: conversation.decode(ids),
        lambda: conversation.decode([wrong]),
        lambda: session.answer([fused, last], conversation=conversation).finish(),
        lambda: answer_batch(session, [[first, last], [fused, last]]),
        lambda: answer_batch(session, [[first, end]]),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="token id") as error:
            call()
        assert error.value.remedy
    assert lengths(conversation) == [(0, 0), (0, 0)]


def test_an_error_in_the_middle_of_a_section_is_undone(session, monkeypatch):
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:10]))
    before = lengths(conversation)
    interrupt_run(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        conversation.append(*section(session, IDS[10:40]))
    monkeypatch.undo()
    assert lengths(conversation) == before
    conversation.append(*section(session, IDS[10:40]))
    fresh = session.conversation()
    fresh.append(*section(session, IDS[:10]))
    fresh.append(*section(session, IDS[10:40]))
    assert greedy(conversation, IDS[40:41]) == greedy(fresh, IDS[40:41])


def test_an_error_in_the_middle_of_what_is_decoded_is_undone(session, monkeypatch):
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:10]))
    before = lengths(conversation)
    interrupt_run(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        conversation.decode(IDS[10:40])  # two passes
    monkeypatch.undo()
    assert lengths(conversation) == before
    found = conversation.decode(IDS[10:40]).copy()
    fresh = session.conversation()
    fresh.append(*section(session, IDS[:10]))
    np.testing.assert_array_equal(found, fresh.decode(IDS[10:40]).copy())


def test_decoding_ends_at_the_last_slot(session):
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:60]))
    for token_id in IDS[60:]:
        conversation.decode([token_id])
    assert conversation.receiver.length == CAPACITY
    with pytest.raises(CapacityError):
        conversation.decode([5])
    assert conversation.receiver.length == CAPACITY


def test_a_conversation_that_is_reset_equals_a_new_one(session):
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:40]))
    greedy(conversation, IDS[40:42])
    conversation.reset()
    assert lengths(conversation) == [(0, 0), (0, 0)]
    fresh = session.conversation()
    for each in (conversation, fresh):
        each.append(*section(session, IDS[20:33]))
    assert greedy(conversation, IDS[33:34]) == greedy(fresh, IDS[33:34])


def test_two_conversations_at_once_do_not_touch_each_other(session):
    alone = []
    for start in (0, 20):
        conversation = session.conversation()
        conversation.append(*section(session, IDS[start : start + 20]))
        alone.append(greedy(conversation, IDS[start + 20 : start + 21]))
    both = [session.conversation() for _ in range(2)]
    for start, conversation in zip((0, 20), both, strict=True):
        conversation.append(*section(session, IDS[start : start + 20]))
    steps = [IDS[20:21], IDS[40:41]]
    together: list[list[int]] = [[], []]
    for _ in range(6):
        for index, conversation in enumerate(both):
            together[index].append(int(np.argmax(conversation.decode(steps[index]))))
            steps[index] = together[index][-1:]
    assert together == alone


def test_a_section_after_decoded_tokens_goes_on_behind_them(session):
    """Decoded tokens count as an unfused section of the Receiver alone."""
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:10]))
    conversation.decode(IDS[10:13])
    conversation.append(*section(session, IDS[13:20]))
    other = session.conversation()
    other.append(*section(session, IDS[:10]))
    other.append(IDS[10:13], [[]], -1)
    other.append(*section(session, IDS[13:20]))
    assert lengths(conversation) == lengths(other) == [(20, 20), (17, 20)]
    assert greedy(conversation, IDS[20:21]) == greedy(other, IDS[20:21])


def test_a_prompt_that_makes_no_sense_is_refused_before_anything_changes(session):
    conversation = session.conversation()
    conversation.append(*section(session, IDS[:20]))
    before = lengths(conversation)
    prompt = session.sections_of_ids(IDS[5:30])
    empty = replace(prompt[-1], receiver_ids=())
    for wrong in ([], [prompt[0], empty], [replace(prompt[0], sharer_ids=()), prompt[1]]):
        with pytest.raises(UsageError):
            conversation.prefill(wrong)
        assert lengths(conversation) == before
    with pytest.raises(UsageError):
        answer_batch(session, [prompt, [prompt[0], empty]])


def test_nothing_is_kept_of_caches_that_were_loaded_from_elsewhere(session):
    """A conversation does not know which tokens a loaded cache holds."""
    other = session.conversation()
    other.append(*section(session, IDS[20:30]))
    held = [
        (other.receiver.valid(layer, "key").copy(), other.receiver.valid(layer, "value").copy())
        for layer in range(session.bundle.manifest.pair.receiver.num_layers)
    ]
    conversation = session.conversation()
    conversation.receiver.load(held)
    conversation.append(*section(session, IDS[:12]))
    prompt = session.sections_of_ids(IDS[:13])
    fresh = session.conversation().prefill(prompt).copy()
    np.testing.assert_allclose(conversation.prefill(prompt), fresh, rtol=0, atol=1e-4)


def test_a_loaded_cache_of_the_same_length_is_not_taken_for_what_was_read(session):
    other, conversation = session.conversation(), session.conversation()
    other.append(*section(session, IDS[20:32]))
    prompt = session.sections_of_ids(IDS[:13])
    expected = conversation.prefill(prompt).copy()
    conversation.rewind(1)
    held = [
        (other.receiver.valid(layer, "key").copy(), other.receiver.valid(layer, "value").copy())
        for layer in range(session.bundle.manifest.pair.receiver.num_layers)
    ]
    conversation.receiver.load(held)
    np.testing.assert_allclose(conversation.prefill(prompt), expected, rtol=0, atol=1e-4)


def test_no_sharer_is_bound_for_a_step_that_it_never_takes(session, monkeypatch):
    fixed = []
    bind = OrtGraph.bind

    def noting(graph, inputs, outputs, *, is_fixed=False):
        fixed.extend([graph] if is_fixed else [])
        return bind(graph, inputs, outputs, is_fixed=is_fixed)

    monkeypatch.setattr(OrtGraph, "bind", noting)
    conversation = session.conversation()
    conversation.prefill(session.sections_of_ids(IDS[:20]))
    conversation.decode([5])
    assert fixed == [session.opened.graph(names.RECEIVER)]


def test_id_0_in_an_array_is_something_to_decode_from(session):
    conversation = session.conversation()
    with pytest.raises(UsageError, match="nothing to decode"):
        conversation.decode(np.array([], np.int64))
    found = conversation.decode(np.array([0])).copy()
    np.testing.assert_array_equal(found, session.conversation().decode([0]).copy())


def test_a_fuser_that_needs_whole_sections_gets_them(session, monkeypatch):
    runs = []
    run = BoundOrtGraph.start
    monkeypatch.setattr(BoundOrtGraph, "start", lambda graph: (runs.append(graph), run(graph))[1])
    manifest = session.bundle.manifest
    for whole, num_fuses in ((False, 3), (True, 1)):
        link = replace(manifest.pair.sharers[0], fuses_whole_sections=whole, max_fused_len=40)
        pair = replace(manifest.pair, sharers=(link,))
        changed = Session(Bundle(session.bundle.root, replace(manifest, pair=pair)))
        conversation = changed.conversation()
        runs.clear()
        conversation.append(*section(session, IDS[:40]))
        assert runs.count(conversation._bound_fuser.bound) == num_fuses
        with pytest.raises(UsageError, match="weights for 40"):
            changed.conversation().append(*section(session, IDS[:41]))


def test_an_answer_ends_at_eos_at_the_limit_or_when_the_cache_is_full(session):
    sections = session.sections_of_ids(IDS[:50])

    def answer(**options):
        return session.answer(sections, GenerationOptions(**options)).finish()

    full = answer(ignore_eos=True)
    assert (len(full.token_ids), full.finish_reason) == (CAPACITY - 50 + 1, "length")
    short = answer(ignore_eos=True, max_new_tokens=4)
    assert (short.token_ids, short.finish_reason) == (full.token_ids[:4], "length")
    assert (short.timings.decode_steps, short.prompt_tokens) == (3, 50)
    eos = full.token_ids[2]
    first = full.token_ids.index(eos)
    manifest = replace(session.bundle.manifest, eos_ids=(9999, eos))
    ending = Session(Bundle(session.bundle.root, manifest))
    ended = ending.answer(sections, GenerationOptions()).finish()
    assert (ended.token_ids, ended.finish_reason) == (full.token_ids[: first + 1], "eos")


def test_streamed_pieces_join_to_the_text(session):
    sections = session.sections_of_text("Why is the sky blue?")
    answer = session.answer(sections, GenerationOptions(max_new_tokens=20, ignore_eos=True))
    pieces = list(answer)
    assert answer.result is not None
    assert "".join(piece.text for piece in pieces) == answer.result.text
    assert tuple(piece.token_id for piece in pieces) == answer.result.token_ids
    assert answer.result.text == session.tokenizer().decode(answer.result.token_ids)


def test_a_seed_repeats_and_another_does_not(session):
    sections = session.sections_of_ids(IDS[:20])

    def sampled(seed):
        sampling = SamplingOptions(temperature=1.5, seed=seed)
        options = GenerationOptions(max_new_tokens=16, ignore_eos=True, sampling=sampling)
        return session.answer(sections, options).finish().token_ids

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_modes_that_need_a_decoding_sharer_say_so(session):
    with pytest.raises(UsageError, match="holds none"):
        session.answer(session.sections_of_ids(IDS[:5]), GenerationOptions(mode="t2t"))
