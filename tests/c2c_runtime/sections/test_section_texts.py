from __future__ import annotations

import numpy as np
import pytest
from small_tokenizers import byte_fallback, byte_level, exported

from c2c_export.pair.alignment import build_alignment
from c2c_runtime.errors import UsageError
from c2c_runtime.sections.alignment import UNFUSED, map_ids
from c2c_runtime.sections.section_texts import SectionText, sections_from_texts


@pytest.fixture(scope="module")
def text_side(tmp_path_factory):
    """Receiver and Sharer tokenizer, of which the Sharer's adds a BOS to plain text, and the table."""
    folder = tmp_path_factory.mktemp("tokenizers")
    table = build_alignment(byte_level(), byte_fallback(), 424, 640, "longest")
    return (
        exported(byte_level(), folder / "receiver"),
        exported(byte_fallback(), folder / "sharer"),
        np.asarray(table),
    )


def test_fused_text_is_mapped_and_the_rest_is_each_models_own(text_side):
    receiver, sharer, table = text_side
    texts = [
        SectionText("", sharer_text="An example."),
        SectionText("Why is the sky blue?"),
        SectionText(" Because", is_fused=True),
        SectionText("\n"),
    ]
    examples, question, fused, last = sections_from_texts(texts, receiver, [sharer], [table])
    assert (examples.receiver_ids, examples.mask) == ((), UNFUSED)
    assert sharer.decode(examples.sharer_ids[0]) == "An example."
    assert examples.span == len(examples.sharer_ids[0])
    assert sharer.decode(question.sharer_ids[0]) == receiver.decode(question.receiver_ids)
    assert question.sharer_ids[0] != map_ids(question.receiver_ids, table)
    assert question.mask == UNFUSED
    assert fused.sharer_ids == (map_ids(fused.receiver_ids, table),)
    assert fused.mask == 1
    assert (receiver.decode(last.receiver_ids), last.mask) == ("\n", UNFUSED)


def test_no_section_gets_special_tokens_that_were_not_written(text_side):
    receiver, sharer, table = text_side
    sections = sections_from_texts(
        [SectionText("a"), SectionText("b")], receiver, [sharer], [table]
    )
    assert sharer.encode("a")[0] == sharer.bos_id
    assert sharer.bos_id not in [i for section in sections for i in section.sharer_ids[0]]


def test_every_sharer_fuses(text_side):
    receiver, sharer, table = text_side
    texts = [SectionText("a", is_fused=True), SectionText("b")]
    fused, _ = sections_from_texts(texts, receiver, [sharer, receiver], [table, None])
    assert fused.mask == 3
    assert fused.sharer_ids[1] == fused.receiver_ids


@pytest.mark.parametrize(
    "texts",
    [[], [SectionText("a", is_fused=True)], [SectionText("a"), SectionText("", sharer_text="b")]],
    ids=["none", "fused at the end", "nothing for the Receiver at the end"],
)
def test_a_prompt_has_to_end_with_text_of_the_receiver(text_side, texts):
    receiver, sharer, table = text_side
    with pytest.raises(UsageError, match="last section") as raised:
        sections_from_texts(texts, receiver, [sharer], [table])
    assert "not fused" in raised.value.remedy


@pytest.mark.parametrize("wrong", [{"text": "a", "sharer_text": "b"}, {"text": ""}])
def test_a_fused_section_has_one_text(wrong):
    with pytest.raises(UsageError, match="one text"):
        SectionText(is_fused=True, **wrong)
