from __future__ import annotations

import pytest

from stillhouse.data.formats.template import template
from stillhouse.data.render import NO_LOSS, end_token, tokenise
from stillhouse.errors import DataError

ROW = {"question": "Who?", "choices": ["me", "you"], "answer": 1, "label": 0}


def test_fields_are_put_into_words_and_the_answer_carries_loss(tokenizer):
    rendered = template(
        ROW, tokenizer, prompt="{{ question }} ({{ choices | join(', ') }})\n", response="{{ choices[answer] }}"
    )
    assert rendered.text == "Who? (me, you)\nyou"
    assert [rendered.text[a:b] for a, b in rendered.loss_spans or []] == ["you"]
    assert rendered.whole
    assert rendered.own == "1\n['me', 'you']\nWho?"  # what filters look at: no word of the template
    example = tokenise([rendered], tokenizer, end_token(tokenizer, None))[0]
    said = [int(label) for label in example.labels if label != NO_LOSS]
    assert tokenizer.decode(said[:-1]) == "you" and said[-1] == end_token(tokenizer, None)


def test_a_label_becomes_a_word(tokenizer):
    assert template(ROW, tokenizer, prompt="Q", response='{{ " yes" if label else " no" }}').text == "Q no"


def test_through_the_chat_template_the_assistants_turn_carries_loss(tokenizer):
    rendered = template(ROW, tokenizer, prompt="{{ question }}", response="{{ choices[answer] }}", chat=True)
    assert rendered.special
    (span,) = rendered.loss_spans or []
    assert rendered.text[slice(*span)].startswith("you")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{{ qestion }}", ["'qestion' is undefined", "question, choices, answer, label", "'prompt'"]),
        ("{{ choices[7] }}", ["has no element 7", "question, choices"]),
        ("{{ question.nothing.more }}", ["nothing"]),
        ("{{ question ", ["unexpected end of template"]),
        ("{{ question | nofilter }}", ["nofilter"]),
        ("{{ 1 / label }}", ["division by zero"]),
        ("{{ question.__class__.__mro__ }}", ["unsafe"]),
        ("{question}: {x}", ["single braces", "write {{ question }}"]),
        ("{{ choices }}", ["['me', 'you']", "no text or number"]),
        ("{{ none }}", ["no text or number"]),
        ("{{ chioces }}", ["Did you mean 'choices'"]),
    ],
)
def test_what_cannot_be_filled_in_is_told_with_the_fields_there_are(tokenizer, prompt, words):
    with pytest.raises(DataError) as caught:
        template(ROW, tokenizer, prompt=prompt, response="x")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_answer_of_nothing_carries_no_loss(tokenizer):
    assert template(ROW, tokenizer, prompt="a", response="{{ '' }}").loss_spans == []


def test_hostile_fields_are_data(tokenizer):
    row = {"text": "{{ 7 * 7 }} <|im_end|>"}
    assert template(row, tokenizer, prompt="{{ text }}", response="x").text == "{{ 7 * 7 }} <|im_end|>x"
