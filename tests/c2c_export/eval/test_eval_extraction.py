"""Which option an output names, on outputs written by hand; short answers and when they are equal."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2c_export.eval.extraction import extract_choice, without_thoughts
from c2c_export.eval.short_answers import is_accepted, normalised, short_answer

TOWNS = ("Lyon", "Paris", "Marseille", "None of the above")
VITAMINS = ("Vitamin A", "Vitamin C", "Iron", "Vitamin C and iron")
NINE = tuple(f"text {number}" for number in range(9))

OUTPUTS = [
    # a letter, and little else
    ("B", "B"),
    ("b", "B"),
    (" B ", "B"),
    ("B.", "B"),
    ("B)", "B"),
    ("(c)", "C"),
    ("[C]", "C"),
    ("<B>", "B"),
    ("'B'", "B"),
    ("**D**", "D"),
    ("__D__", "D"),
    ("`A`", "A"),
    ("B B B B", "B"),
    ("C\nC\nC", "C"),
    ("Ｂ", "B"),
    ("（Ｃ）", "C"),
    ("a", "A"),
    ("A!", "A"),
    # letters that are no option, and no letter
    ("E", None),
    ("", None),
    ("   \n", None),
    ("...", None),
    ("?", None),
    ("BBBB", None),
    ("BC", None),
    ("I do not know.", None),
    ("I think a good answer needs more context.", None),
    ("A good question! It needs more context.", None),
    ("This is a b-movie.", None),
    ("x = a + b", None),
    # said in a sentence
    ("The correct answer is B.", "B"),
    ("The correct answer is: B", "B"),
    ("The answer is (B).", "B"),
    ("the answer is b.", "B"),
    ("the answer is a", "A"),
    ("The answer is a good one.", None),
    ("The answer is A because it rains.", "A"),
    ("The answer is **C**.", "C"),
    ("**Answer:** C", "C"),
    ("Answer: D", "D"),
    ("ANSWER: D", "D"),
    ("Answer:\nD", "D"),
    ("Final answer: A", "A"),
    ("The correct option is D) None of the above", "D"),
    ("The right choice would be option C.", "C"),
    ("The best answer to this question is B.", "B"),
    ("My answer is C, since it lies by the sea.", "C"),
    ("I would choose B.", "B"),
    ("I'd go with option C", "C"),
    ("I think it's B", "B"),
    ("Option B is correct.", "B"),
    ("C is the right answer.", "C"),
    ("Clearly (d) is correct", "D"),
    ("I think B", "B"),
    ("Definitely (c)", "C"),
    ("Hmm. B?", "B"),
    # a letter and its text
    ("A. Lyon is the capital.", "A"),
    ("B) because the king lived there", "B"),
    ("B because the king lived there", "B"),
    ("B: Paris", "B"),
    ("B - Paris", "B"),
    ("(B) Paris", "B"),
    ("A: Lyon", "A"),
    ("A: Paris", "B"),
    ("1\n\nA: 1\n\nA: 2", None),
    ("Option C. Marseille", "C"),
    ("B. Paris, not Lyon", "B"),
    # a text without a letter
    ("Paris", "B"),
    ("paris.", "B"),
    ("**Paris**", "B"),
    ("It is Paris, of course.", "B"),
    ("None of the above", "D"),
    ("none of the above.", "D"),
    ("Paris or Lyon", None),
    ("Parisian", None),
    ("C\n\nExplanation: A is wrong because of the sea", "C"),
    ("Correct answer: B Explanation: A ...", "B"),
    ("(A) is incorrect. (B) is correct.", "B"),
    ("The answer is\n\n**B) Paris**", "B"),
    ("The answer is Paris (B).", "B"),
    # several
    ("A、B、C都不对", None),
    ("Not sure, maybe B or C?", None),
    ("Answer: A/B/C/D", None),
    ("Answer: A or B", None),
    ("The answer is A and B.", None),
    ("Both A and B are right", None),
    ("A, B and C are all wrong", None),
    ("A. Lyon\nB. Paris\nC. Marseille\nD. None of the above", None),
    ("A. Lyon\nB. Paris\nC. Marseille\nD. None of the above\n\nAnswer: B", "B"),
    ("Answer: A/B/C/D\nAnswer: C", "C"),
    # second thoughts
    ("The answer is A. No, wait: the answer is C.", "C"),
    ("A. Wait, that is wrong. The correct answer is B.", "B"),
    ("I first thought A. Actually, C.", "C"),
    ("The answer is not A. The answer is B.", "B"),
    ("A is wrong, so B", "B"),
    ("Not A but B", "B"),
    ("It isn't C; it is D.", "D"),
    # thoughts, LaTeX, other languages
    ("<think>A or C? The sea... C.</think>B", "B"),
    ("<think>\n\n</think>\n\nThe answer is D.", "D"),
    ("thinking without a beginning: A</think>\n\nC", "C"),
    ("<think>Surely it is A. Or is it", None),
    (r"\boxed{C}", "C"),
    (r"The answer is $\boxed{\text{C}}$.", "C"),
    (r"\boxed{A} is tempting, but \boxed{B}", "B"),
    (r"\(\mathrm{B}\)", "B"),
    ("答案是C", "C"),
    ("答案：C", "C"),
    ("正确答案为B。", "B"),
    ("选D", "D"),
    ("因此选择A。", "A"),
    ("本题应选Ｂ，因为巴黎是首都", "B"),
    # what a base model writes on
    ("B\n\nQuestion: What is the capital of Spain?\nA. Rome\nB. Madrid\nAnswer: C", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("output", "letter"), OUTPUTS)
def test_which_option_an_output_names(output, letter):
    found = extract_choice(output, "ABCD", TOWNS)
    assert (None if found is None else "ABCD"[found]) == letter


def test_there_are_many_outputs_and_no_two_alike():
    outputs = [output for output, _ in OUTPUTS]
    assert len(set(outputs)) == len(outputs) >= 60


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("3", "3"),
        ("(3)", "3"),
        ("The answer is 3.", "3"),
        ("The answer is 3.5", None),
        ("3. Marseille", "3"),
        ("In 1990 there were 12 towns", None),
        ("2 towns lie by the sea", None),
        ("I choose 4", "4"),
        ("1, 2 or 3", None),
        ("5", None),
        ("B", None),
    ],
)
def test_numbered_options(output, label):
    found = extract_choice(output, "1234", TOWNS)
    assert (None if found is None else "1234"[found]) == label


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("Vitamin C", "B"),
        ("I take vitamin C every day", "B"),
        ("vitamin C and iron", "D"),
        ("C", "C"),
        ("C. Iron", "C"),
        ("I think it is vitamin A", "A"),
    ],
)
def test_letters_inside_an_options_text_are_no_labels(output, letter):
    found = extract_choice(output, "ABCD", VITAMINS)
    assert (None if found is None else "ABCD"[found]) == letter


@pytest.mark.parametrize(
    ("output", "letter"),
    [("I", "I"), ("I think H", "H"), ("I am not sure", None), ("I. text 8", "I"), ("The answer is I.", "I")],
)  # fmt: skip
def test_the_pronoun_is_no_option(output, letter):
    found = extract_choice(output, "ABCDEFGHI", NINE)
    assert (None if found is None else "ABCDEFGHI"[found]) == letter


def test_a_letter_beyond_the_options_does_not_count():
    assert extract_choice("The answer is C.", "AB", ("yes", "no")) is None
    assert extract_choice("C. Then A", "AB", ("yes", "no")) == 0


def test_options_that_are_letters_are_called_by_their_labels():
    assert extract_choice("B", "ABCD", ("B", "A", "AB", "O")) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", " paris. "),
        ("The Beatles", "beatles"),
        ("U.S.A.", "usa"),
        ("forty-two", "Forty Two"),
        ("1,000", "1000"),
        ("Ｐａｒｉｓ", "paris"),
        ("an  apple", "apple"),
        ("“quoted”", "quoted"),
        ("A", "a"),
    ],
)
def test_what_makes_no_other_answer(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Paris", "Paris France"), ("3.14", "314"), ("-5", "5"), ("café", "cafe"), ("AC/DC", "ACDC")],
)
def test_what_makes_another_answer(one, other):
    assert normalised(one) != normalised(other)


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("Paris", "Paris"),
        ("\n Paris \nQuestion: next", "Paris"),
        ("Answer: Paris", "Paris"),
        ("The answer is: Paris", "Paris"),
        ("The answer is Paris.", "Paris."),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_the_part_that_counts(output, answer):
    assert short_answer(output) == answer


def test_accepted_texts():
    assert is_accepted("the Seine.", ["Loire", "Seine"])
    assert not is_accepted("Rhine", ["Loire", "Seine"])
    assert not is_accepted("", ["Seine"])
    assert not is_accepted("...", ["..."])


def test_thoughts_are_left_out():
    assert without_thoughts("a<think>b</think>c").split() == ["a", "c"]


PIECES = st.sampled_from(
    ["A", "B", "b", "(C)", "D.", "Paris", "the answer is", "Answer:", "not", "or", "/", ",", "\n", " ",
     "actually", "</think>", "<think>", "\\boxed{", "}", "**", "答案是", "1", "is correct", "’s", "Ｃ"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text())
def test_whatever_a_model_writes_there_is_an_option_or_none(output):
    found = extract_choice(output, "ABCD", TOWNS)
    assert found in (None, 0, 1, 2, 3)


@pytest.mark.parametrize(
    "piece", ["the answer is ", "A ", "<think>", "B or ", "Paris, ", "( ", "x"]
)
def test_long_outputs_are_read_in_a_moment(piece):
    started = time.perf_counter()
    extract_choice(piece * 1000, "ABCD", TOWNS)
    assert time.perf_counter() - started < 2
