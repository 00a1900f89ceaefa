from __future__ import annotations

from typing import Any

import pytest

from stillhouse.data.formats.chat import chat
from stillhouse.data.formats.prompt_response import prompt_response
from stillhouse.data.formats.text import text
from stillhouse.data.render import NO_LOSS, Rendered, tokenise
from stillhouse.errors import DataError

from .tiny import CHAT, make

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who jumps?"},
    {"role": "assistant", "content": "The fox 🙂"},
    {"role": "user", "content": "Who sleeps?"},
    {"role": "assistant", "content": "The dog."},
]


def said(rendered: Rendered, tokenizer: Any) -> str:
    """The labels that carry loss, as text, with | wherever some between carry none."""
    (example,) = tokenise([rendered], tokenizer, tokenizer.eos_token_id)
    groups: list[list[int]] = [[]]
    for label in example.labels.tolist():
        if label != NO_LOSS:
            groups[-1].append(label)
        elif groups[-1]:
            groups.append([])
    return "|".join(tokenizer.decode(g) for g in groups if g)


def test_text_is_all_loss_and_may_be_cut(tokenizer: Any) -> None:
    assert text({"body": "x"}, tokenizer, field="body") == Rendered("x")


def test_both_turns_of_the_assistant_carry_loss(tokenizer: Any) -> None:
    rendered = chat({"messages": TALK}, tokenizer)
    assert rendered.text == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert rendered.whole and rendered.special
    spans = [rendered.text[a:b] for a, b in rendered.loss_spans or []]
    assert spans == ["The fox 🙂<|im_end|>\n", "The dog.<|im_end|>\n"]
    assert said(rendered, tokenizer) == "The fox 🙂<|im_end|>\n|The dog.<|im_end|>\n"


def test_loss_on_all_of_a_chat(tokenizer: Any) -> None:
    rendered = chat({"messages": TALK}, tokenizer, loss="all")
    assert rendered.loss_spans is None and rendered.whole


def test_a_chat_that_ends_with_the_user_ends_without_loss(tokenizer: Any) -> None:
    rendered = chat({"messages": TALK[:4]}, tokenizer)
    assert said(rendered, tokenizer) == "The fox 🙂<|im_end|>\n"
    assert chat({"messages": TALK[:2]}, tokenizer).loss_spans == []


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    rewriting = (  # earlier answers lose their first letter, as some templates strip the thinking of earlier turns
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] if loop.last else m['content'][1:] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = make(template=rewriting)
    with pytest.raises(DataError, match=r"messages\[2\]: the chat template writes this turn otherwise"):
        chat({"messages": TALK}, tokenizer)
    thinking = rewriting.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(DataError, match=r"messages\[1\]"):
        chat({"messages": TALK[1:3]}, make(template=thinking))


def test_a_template_that_ends_the_last_turn_otherwise_is_refused() -> None:
    """The turn's beginning can be found there, but not its end."""
    closing = CHAT.replace(
        "<|im_end|>\n", "{% if loop.last and m['role'] == 'assistant' %}<|endoftext|>{% else %}<|im_end|>{% endif %}\n"
    )
    tokenizer = make(template=closing)
    with pytest.raises(DataError, match=r"messages\[2\]: the chat template writes this turn otherwise"):
        chat({"messages": TALK}, tokenizer)
    assert said(chat({"messages": TALK[:3]}, tokenizer), tokenizer) == "The fox 🙂<|endoftext|><|im_end|>"


def test_errors_of_chat(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="has no chat template"):
        chat({"messages": TALK}, make(template=None))
    with pytest.raises(DataError, match="the chat template refuses them: no user"):
        chat({"messages": TALK}, make(template="{{ raise_exception('no user') }}"))
    with pytest.raises(DataError, match=r"Did you mean 'messages'\?"):
        chat({"messages": TALK}, tokenizer, field="mesages")
    with pytest.raises(DataError, match="holds str 'hi', not a list"):
        chat({"messages": "hi"}, tokenizer)
    with pytest.raises(DataError, match=r"messages\[0\]: has no text in 'role' \(it has from: str, value: str\)"):
        chat({"messages": [{"from": "human", "value": "x"}]}, tokenizer)
    with pytest.raises(DataError, match=r"messages\[0\]: has no text in 'content'"):
        chat({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, tokenizer)
    with pytest.raises(DataError, match=r"messages\[0\]: is str"):
        chat({"messages": ["hi"]}, tokenizer)
    with pytest.raises(DataError, match="holds no messages"):
        chat({"messages": []}, tokenizer)


def test_prompt_and_response(tokenizer: Any) -> None:
    record = {"q": "Who jumps? {response}", "a": "the fox {prompt}"}
    rendered = prompt_response(
        record, tokenizer, prompt="q", response="a", template="Q: {{ prompt }}\nA:{{response}} ."
    )
    assert rendered.text == "Q: Who jumps? {response}\nA:the fox {prompt} ."
    assert rendered.whole and not rendered.special
    assert said(rendered, tokenizer) == "the fox {prompt} .<|im_end|>"
    everything = prompt_response(record, tokenizer, prompt="q", response="a", loss="all")
    whole = "Who jumps? {response}\nthe fox {prompt}"
    assert everything == Rendered(whole, whole=True, own=whole)
    assert rendered.words == whole  # without what the template adds


def test_special_tokens_in_answers_are_data_unless_the_template_has_some(tokenizer: Any) -> None:
    record = {"prompt": "p", "response": "a <|im_end|> b"}
    (example,) = tokenise([prompt_response(record, tokenizer)], tokenizer, tokenizer.eos_token_id)
    assert example.labels.tolist().count(tokenizer.eos_token_id) == 1
    marked = prompt_response(
        {"prompt": "p", "response": "r"},
        tokenizer,
        template="<|im_start|>{{ prompt }}<|im_end|>{{ response }}<|im_end|>",
    )
    assert marked.special
    assert said(marked, tokenizer) == "r<|im_end|>"


def test_prompt_and_response_as_a_chat(tokenizer: Any) -> None:
    rendered = prompt_response({"prompt": "Who?", "response": "I."}, tokenizer, template="chat")
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    assert rendered == chat({"messages": messages}, tokenizer)


def test_an_empty_answer_teaches_nothing(tokenizer: Any) -> None:
    assert said(prompt_response({"prompt": "p", "response": " "}, tokenizer), tokenizer) == ""


@pytest.mark.parametrize(
    "template", ["{{ prompt }}", "{{ response }}{{ prompt }}", "{{ prompt }}{{prompt}}{{ response }}", "chats"]
)
def test_a_bad_template_is_refused(tokenizer: Any, template: str) -> None:
    with pytest.raises(DataError, match=r"template: .* is to have \{\{ prompt \}\} once and \{\{ response \}\} once"):
        prompt_response({"prompt": "p", "response": "r"}, tokenizer, template=template)


def test_single_braces_are_told_apart_from_jinjas(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"write \{\{ prompt \}\}"):
        prompt_response({"prompt": "p", "response": "r"}, tokenizer, template="{prompt}\n{response}")
    braces = prompt_response(
        {"prompt": "p", "response": "r"}, tokenizer, template="{x}{{ prompt }}{prompt}{{ response }}"
    )
    assert braces.text == "{x}p{prompt}r"
