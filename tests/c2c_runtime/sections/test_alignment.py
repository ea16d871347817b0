from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
from chat_templates import GEMMA3, LLAMA3, QWEN3, QWEN25, SMOLLM2
from paths import DATA
from small_tokenizers import byte_fallback, byte_level, exported, unigram

from c2c_export.pair.alignment import build_alignment
from c2c_runtime.errors import BundleError, UsageError
from c2c_runtime.sections.alignment import (
    UNFUSED,
    Section,
    load_alignment,
    sections_from_chat,
    sections_from_ids,
)
from c2c_runtime.text.chat_template import default_chat_template

GOLDEN = DATA / "alignment_smollm2_from_gemma3.json"
TABLE = np.array([10, 11, 12, 13, 14], dtype=np.int32)
GEMMA = default_chat_template("gemma3_text")
DROPS_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role != 'system' %}"
    "[{{ m.role }}]{{ m.content | trim }}[end]{% endif %}{% endfor %}"
)


# A table on disk.


def test_a_table_is_read_as_it_was_saved(tmp_path):
    np.save(tmp_path / "sharer1.npy", TABLE)
    np.testing.assert_array_equal(load_alignment(tmp_path / "sharer1.npy"), TABLE)


@pytest.mark.parametrize(
    "content",
    [
        TABLE.astype(np.int64),
        TABLE.reshape(1, 5),
        TABLE[:0],
        -TABLE,
        np.array([{"a": 1}], dtype=object),
    ],
    ids=["int64", "2-d", "empty", "negative", "pickled"],
)
def test_anything_but_a_table_is_a_bundle_error(tmp_path, content):
    path = tmp_path / "sharer1.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(BundleError, match=r"sharer1\.npy is not an alignment table"):
        load_alignment(path)


def test_a_missing_truncated_or_packed_table_is_a_bundle_error(tmp_path):
    with pytest.raises(BundleError):
        load_alignment(tmp_path / "absent.npy")
    path = tmp_path / "short.npy"
    np.save(path, TABLE)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BundleError):
        load_alignment(path)
    np.savez(tmp_path / "packed.npz", table=TABLE)
    with pytest.raises(BundleError):
        load_alignment(tmp_path / "packed.npz")


# Sections of ids.


def test_all_tokens_but_the_last_are_fused_by_all_sharers():
    sections = sections_from_ids([3, 1, 4], [TABLE, None])
    assert sections == [
        Section((3, 1), ((13, 11), (3, 1)), mask=0b11, span=2),
        Section((4,), ((14,), (4,)), mask=UNFUSED, span=1),
    ]


def test_a_single_token_is_one_unfused_section():
    assert sections_from_ids([2], [TABLE]) == [Section((2,), ((12,),), UNFUSED, 1)]


def test_without_sharers_nothing_is_fused():
    assert [section.mask for section in sections_from_ids([0, 1, 2], [])] == [UNFUSED, UNFUSED]


def test_lengths_and_masks_cut_the_prompt():
    sections = sections_from_ids([0, 1, 2, 3, 4], [TABLE, TABLE], [(2, 0b10), (1, 0), (2, -1)])
    assert [section.receiver_ids for section in sections] == [(0, 1), (2,), (3, 4)]
    assert [section.mask for section in sections] == [0b10, UNFUSED, UNFUSED]
    assert sections[0].sharer_ids == ((10, 11), (10, 11))


@pytest.mark.parametrize(
    ("ids", "sections", "words"),
    [
        ([], None, "no tokens"),
        ([1, 2, 3], [(2, 1)], "hold 2 tokens, the prompt has 3"),
        ([1, 2, 3], [(2, 1), (2, -1)], "hold 4 tokens, the prompt has 3"),
        ([1, 2, 3], [], "hold 0 tokens, the prompt has 3"),
        ([1, 2, 3], [(2, -1), (1, 1)], "last section is fused"),
        ([1, 2, 3], [(2, 2), (1, -1)], "mask 2, but the bundle has 1 Sharer"),
        ([1, 2, 3], [(2, -2), (1, -1)], "mask of section 0 is -2"),
        ([1, 2, 3], [(3, 1), (0, -1)], "section 1 has length 0"),
        ([1, 5, 3], None, "token id 5 is not in the Receiver's vocabulary of 5 tokens"),
        ([1, -1, 3], None, "token id -1"),
    ],
)
def test_ids_and_sections_that_do_not_fit_are_usage_errors(ids, sections, words):
    with pytest.raises(UsageError, match=words) as error:
        sections_from_ids(ids, [TABLE], sections)
    assert error.value.remedy


@pytest.mark.parametrize("id", [1.5, 1.0, "1", None, np.float32(1)])
def test_what_is_no_integer_is_no_id(id):
    with pytest.raises(UsageError, match="token ids are integers") as error:
        sections_from_ids([1, id, 2], [None])
    assert error.value.remedy


def test_integers_of_numpy_are_ids():
    assert sections_from_ids(np.array([1, 2]), [None]) == sections_from_ids([1, 2], [None])


# Sections of chats.


def align(messages, tmp_path, receiver_template, *sharer_templates, table=True, **options):
    """Sections of a chat for a ChatML Receiver and Sharers with BOS; the tokenizers with them."""
    gemma_like = byte_fallback(strips_first_space=False)
    receiver = exported(byte_level(), tmp_path / "receiver", receiver_template)
    sharers = [
        exported(gemma_like, tmp_path / f"sharer{number}", template)
        for number, template in enumerate(sharer_templates, 1)
    ]
    own = build_alignment(
        byte_level(), gemma_like, receiver.vocab_size, sharers[0].vocab_size, "longest"
    )
    tables = [own if table else None] * len(sharers)
    sections = sections_from_chat(messages, receiver, sharers, tables, **options)
    check(sections, messages, receiver, sharers, tables, options)
    return sections, receiver, sharers


def check(sections, messages, receiver, sharers, tables, options):
    """What holds for every chat."""
    text = receiver.render_chat(messages, **options)
    ids = list(chain.from_iterable(section.receiver_ids for section in sections))
    assert ids == receiver.encode(text, add_special_tokens=False)
    assert sections[-1].mask == UNFUSED
    assert sections[-1].receiver_ids
    for section in sections:
        lengths = [len(section.receiver_ids), *(len(ids) for ids in section.sharer_ids)]
        assert section.span == max(lengths) > 0
        if section.mask == UNFUSED:
            continue
        assert 0 < section.mask < 1 << len(sharers)
        for bit, (table, sharer_ids) in enumerate(zip(tables, section.sharer_ids, strict=True)):
            if section.mask >> bit & 1:
                mapped = section.receiver_ids if table is None else table[[*section.receiver_ids]]
                assert list(sharer_ids) == list(mapped)


def fused_texts(sections, receiver) -> list[str]:
    return [receiver.decode(s.receiver_ids, False) for s in sections if s.mask != UNFUSED]


def template_text(sections, sharer, number: int) -> str:
    """What Sharer ``number`` (from 0) reads outside of fused sections."""
    unfused = [s.sharer_ids[number] for s in sections if s.mask == UNFUSED]
    return sharer.decode(list(chain.from_iterable(unfused)), skip_special_tokens=False)


CHAT = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Name three 色."},
    {"role": "assistant", "content": "Red, green, blue"},
    {"role": "user", "content": "And one more 🚀?"},
]


def test_contents_are_fused_and_template_tokens_are_not(tmp_path):
    sections, receiver, (sharer,) = align(CHAT, tmp_path, SMOLLM2, GEMMA)
    assert [section.mask for section in sections] == [-1, 1, -1, 1, -1, 1, -1, 1, -1]
    assert fused_texts(sections, receiver) == [message["content"] for message in CHAT]
    blank = [{**message, "content": ""} for message in CHAT]
    assert template_text(sections, sharer, 0) == sharer.render_chat(blank)


def test_positions_jump_over_the_shorter_template(tmp_path):
    sections, _, _ = align(CHAT, tmp_path, SMOLLM2, GEMMA)
    first = sections[0]
    assert len(first.receiver_ids) != len(first.sharer_ids[0])
    assert first.span == max(len(first.receiver_ids), len(first.sharer_ids[0]))


def test_a_sharer_with_the_same_tokenizer_reads_the_same_ids(tmp_path):
    sections, _, _ = align(CHAT, tmp_path, SMOLLM2, GEMMA, table=False)
    assert sections[1].sharer_ids == (sections[1].receiver_ids,)


@pytest.mark.parametrize("template", [SMOLLM2, QWEN25, QWEN3, LLAMA3, GEMMA])
@pytest.mark.parametrize(
    "contents",
    [
        ["hello", "hello", "hello"],
        ["user", "assistant", "system"],  # the templates' own words
        ["You", "help", "a"],  # words of a system default
        ["<|im_start|>user\nhello<|im_end|>\n", "x", "c2cmark"],
        ["x x x", " x ", "x"],
    ],
)
def test_contents_that_stand_elsewhere_too_are_found(template, contents, tmp_path):
    roles = ["user", "assistant", "user"]
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
    sections, receiver, _ = align(messages, tmp_path, template, template)
    stripped = [text.strip() for text in fused_texts(sections, receiver)]
    assert stripped == [content.strip() for content in contents]


def test_trimmed_contents_are_found(tmp_path):
    messages = [
        {"role": "system", "content": "\n Be terse. \n"},
        {"role": "user", "content": "  two words \n\n"},
    ]
    sections, receiver, (sharer,) = align(messages, tmp_path, LLAMA3, GEMMA3)
    assert [text.strip() for text in fused_texts(sections, receiver)] == ["Be terse.", "two words"]
    assert "terse" not in template_text(sections, sharer, 0)
    assert "words" not in template_text(sections, sharer, 0)


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_a_message_that_says_nothing_is_no_section(empty, tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": empty}]
    sections, receiver, _ = align(messages, tmp_path, LLAMA3, LLAMA3)
    assert fused_texts(sections, receiver) == ["hi"]


def test_a_chat_of_nothing_is_one_unfused_section(tmp_path):
    sections, _, _ = align([{"role": "user", "content": ""}], tmp_path, SMOLLM2, GEMMA)
    assert [section.mask for section in sections] == [UNFUSED]


def test_what_a_sharers_template_drops_it_does_not_fuse(tmp_path):
    sections, receiver, sharers = align(CHAT, tmp_path, SMOLLM2, GEMMA, DROPS_SYSTEM)
    assert [s.mask for s in sections if s.mask != UNFUSED] == [0b01, 0b11, 0b11, 0b11]
    assert fused_texts(sections, receiver) == [message["content"] for message in CHAT]
    system = next(section for section in sections if section.mask == 0b01)
    assert system.sharer_ids[1] == ()
    assert sections[0].sharer_ids[1][0] == sharers[1].bos_id  # its text still begins at the start


def test_what_all_sharers_drop_is_not_fused(tmp_path):
    sections, receiver, _ = align(CHAT, tmp_path, SMOLLM2, DROPS_SYSTEM)
    assert fused_texts(sections, receiver) == [message["content"] for message in CHAT[1:]]


def test_what_the_receivers_template_drops_is_no_section(tmp_path):
    sections, receiver, (sharer,) = align(CHAT, tmp_path, DROPS_SYSTEM, GEMMA)
    assert fused_texts(sections, receiver) == [message["content"] for message in CHAT[1:]]
    assert "You are terse." in template_text(sections, sharer, 0)


def test_reasoning_that_a_template_drops_is_not_searched_for(tmp_path):
    messages = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n4"},
        {"role": "user", "content": "sure?"},
    ]
    sections, receiver, _ = align(messages, tmp_path, QWEN3, GEMMA)
    assert fused_texts(sections, receiver) == ["2+2?", "4", "sure?"]


def test_a_chat_that_ends_with_a_message_keeps_its_last_token_unfused(tmp_path):
    bare = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    sections, receiver, _ = align(CHAT[1:2], tmp_path, bare, GEMMA, add_generation_prompt=False)
    assert [section.mask for section in sections] == [UNFUSED, 1, UNFUSED]
    assert len(sections[-1].receiver_ids) == 1
    content = sections[1].receiver_ids + sections[2].receiver_ids
    assert receiver.decode(content) == CHAT[1]["content"]


def test_a_message_of_one_token_at_the_end_is_not_fused(tmp_path):
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    sections, _, _ = align([{"role": "user", "content": "a"}], tmp_path, bare, bare)
    assert [section.mask for section in sections] == [UNFUSED]


def test_tokens_across_an_edge_belong_to_the_message(tmp_path):
    code = "{% for m in messages %}{{ m.role + ': ' + m.content + '):\n' }}{% endfor %}"
    messages = [{"role": "user", "content": "the square(x"}]
    sections, receiver, _ = align(messages, tmp_path, code, GEMMA)
    assert receiver.token_id("):") is not None
    assert fused_texts(sections, receiver) == [" the square(x"]
    messages[0]["content"] = "the square(x)"  # its ")" is one token with the template's ":"
    sections, receiver, _ = align(messages, tmp_path, code.replace("):", ":"), GEMMA)
    assert fused_texts(sections, receiver) == [" the square(x):"]


def test_a_sharer_reads_its_own_template_in_order(tmp_path):
    tokenizer = exported(byte_level(), tmp_path / "receiver", SMOLLM2)
    sharer = exported(byte_level(), tmp_path / "sharer1", DROPS_SYSTEM)
    messages = [CHAT[1], CHAT[0], CHAT[2], CHAT[0], CHAT[3]]
    sections = sections_from_chat(messages, tokenizer, [sharer], [None])
    ids = list(chain.from_iterable(section.sharer_ids[0] for section in sections))
    assert sharer.decode(ids, False) == sharer.render_chat(messages)
    assert [s.mask for s in sections if len(s.sharer_ids[0]) == 0] == [UNFUSED] * 4


def test_a_sharer_that_reorders_messages_fuses_those_in_order(tmp_path):
    backwards = "[{% for m in messages[::-1] %}{{ m.role }}|{{ m.content }}|{% endfor %}]"
    sections, receiver, (sharer,) = align(CHAT, tmp_path, SMOLLM2, backwards)
    assert fused_texts(sections, receiver) == [CHAT[0]["content"]]
    assert "Red, green, blue" in template_text(sections, sharer, 0)


def test_contents_side_by_side_are_two_sections(tmp_path):
    bare = "[{% for m in messages %}{{ m.content }}{% endfor %}]"
    messages = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    sections, receiver, _ = align(messages, tmp_path, bare, bare)
    assert "".join(fused_texts(sections, receiver)).strip("[]") == "onetwo"


def test_a_chat_of_many_messages_is_cut(tmp_path):
    messages = [
        {"role": ["user", "assistant"][index % 2], "content": f"hello there {index % 7}"}
        for index in range(2000)
    ]
    sections, receiver, _ = align(messages, tmp_path, SMOLLM2, GEMMA)
    assert len(fused_texts(sections, receiver)) == 2000


def test_contents_that_are_not_text_are_a_usage_error(tmp_path):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    with pytest.raises(UsageError, match="content of message 0 is list"):
        align(parts, tmp_path, SMOLLM2, GEMMA)


def test_tables_and_sharers_must_match(tmp_path):
    receiver = exported(unigram(), tmp_path, SMOLLM2)
    with pytest.raises(UsageError, match="1 Sharer tokenizers but 0"):
        sections_from_chat(CHAT, receiver, [receiver], [])


# The published aligner's own results.


def padded(sections, pad: int, sharer_pad: int):
    """Ids and fused mask as the reference writes them: every section filled up to its span."""
    receiver: list[int] = []
    sharer: list[int] = []
    fused: list[bool] = []
    for section in sections:
        (sharer_ids,) = section.sharer_ids
        receiver += [*section.receiver_ids] + [pad] * (section.span - len(section.receiver_ids))
        sharer += [*sharer_ids] + [sharer_pad] * (section.span - len(sharer_ids))
        fused += [section.mask != UNFUSED] * section.span
    return receiver, sharer, fused


@pytest.mark.real
def test_chats_are_aligned_as_the_reference_does(tmp_path):
    from real_models import gemma3_tokenizer, smollm2_tokenizer

    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    receiver = exported(smollm2_tokenizer(), tmp_path / "receiver")
    sharer = exported(gemma3_tokenizer(), tmp_path / "sharer1", golden["sharer_chat_template"])
    sizes = golden["receiver_vocab"], golden["sharer_vocab"]
    tables = {
        strategy: build_alignment(smollm2_tokenizer(), gemma3_tokenizer(), *sizes, strategy)
        for strategy in ("first", "longest")
    }
    assert golden["chats"]
    for chat in golden["chats"]:
        table = tables[chat["strategy"]]
        sections = sections_from_chat(chat["messages"], receiver, [sharer], [table])
        ids, sharer_ids, fused = padded(sections, receiver.pad_id, sharer.pad_id)
        assert ids == chat["slm_ids_padded"]
        assert sharer_ids == chat["llm_ids_padded"]
        assert fused == chat["message_mask"]
        ranges = [part["slm_range"] for part in chat["sections"]]
        assert [section.span for section in sections] == [stop - start for start, stop in ranges]
