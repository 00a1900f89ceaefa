"""A conversation in the terminal, or through a pipe: foreign text is shown as text, whatever is in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stillhouse.chat import Speaker, Token
from stillhouse.errors import StillhouseError
from stillhouse.report.words import visible

HELP = "Say something. /new begins again, /quit or Ctrl-D ends; Ctrl-C stops a reply."


def converse(who: Sequence[Speaker], prompts: Sequence[str], console: Console, *, probabilities: bool = False) -> None:
    """Let speakers answer: the prompts that are given, else lines of standard input, else what a person types.

    Args:
        who: one, or two side by side.
        prompts: messages of one conversation, in their order.
        console: where to show it.
        probabilities: show each token on a line of its own, with the likeliest others.

    Raises:
        ModelError: a prompt is too long; in a terminal it is told and the conversation goes on.
    """
    if prompts or not sys.stdin.isatty():
        for prompt in prompts or _lines():
            turn(who, prompt, console, probabilities=probabilities)
        return
    names = " and ".join(f"{one.role} {visible(one.model.name)}" for one in who)
    how = (
        ""
        if all(one.chats or one.model.classifies for one in who)
        else " There is no chat template: texts are continued."
    )
    console.print(f"{names}.{how} {HELP}", highlight=False, markup=False)
    while True:
        try:
            said = console.input("[bold]> [/]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said == "/quit":
            return
        if said == "/new":
            for one in who:
                one.forget()
        elif said:
            try:
                turn(who, said, console, probabilities=probabilities)
            except KeyboardInterrupt:
                console.print("\n(stopped)", style="dim")
            except StillhouseError as error:
                console.print(str(error), markup=False, highlight=False, style="red")


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")


def turn(who: Sequence[Speaker], prompt: str, console: Console, *, probabilities: bool) -> None:
    """One message and every speaker's answer to it."""
    if len(who) > 1 and console.is_terminal and not probabilities and not who[0].model.classifies:
        _beside(who, prompt, console)
        return
    for one in who:
        if len(who) > 1:
            console.print(Text(f"{one.role}:", "bold"))
        if one.model.classifies:
            for name, p in one.classes(prompt):
                console.print(Text(f"{p:>6.1%}  {visible(name)}"))
        elif probabilities:
            for token in one.reply(prompt):
                console.print(_told(token))
        else:
            for token in one.reply(prompt):
                console.print(Text(visible(token.text)), end="", soft_wrap=True)
            console.print()


def _told(token: Token) -> Text:
    """A token with its probability, and what else was likely."""
    others = ", ".join(f"{_quoted(text)} {p:.1%}" for text, p in token.others if text != token.piece)
    told = Text(f"{token.probability:>6.1%}  ", "bold" if token.probability > 0.5 else "")
    told.append(f"{_quoted(token.piece):<16}" + (" (the end)" if token.ends else ""))
    return told.append(f"  {others}", "dim")


def _quoted(text: str) -> str:
    return f"“{visible(text).replace(chr(10), '⏎').replace(chr(9), '⇥')}”"


def _beside(who: Sequence[Speaker], prompt: str, console: Console) -> None:
    """All answers grow at the same time, each in a column of its own."""
    said = ["" for _ in who]

    def table() -> Table:
        columns = Table(box=None, pad_edge=False, expand=True)
        for one in who:
            columns.add_column(one.role, ratio=1)
        columns.add_row(*(Text(visible(text)) for text in said))
        return columns

    with Live(table(), console=console, auto_refresh=False) as live:
        for tokens in zip_longest(*(one.reply(prompt) for one in who)):
            said = [text + (token.text if token else "") for text, token in zip(said, tokens, strict=True)]
            live.update(table(), refresh=True)
