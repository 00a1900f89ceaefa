"""What a text costs, by domain."""

from __future__ import annotations

from stillhouse.evaluate.questions import Task, find_file, text


def plain_text(*, path: str, domain: str = "", characters: int = 2000, questions: int = 50) -> Task:
    """How many bits does it take for a text?

    The file is cut at blank lines into stretches, each scored from its first token.

    Args:
        path: a text file, UTF-8.
        domain: what it is called where several are compared; the file's name if not given.
        characters: of a stretch, about.
        questions: how many stretches, from all over the file.
    """
    file = find_file(path)
    stretches = [""]
    for paragraph in file.read_text(encoding="utf-8").split("\n\n"):
        if len(stretches[-1]) > characters:
            stretches.append("")
        stretches[-1] += f"{paragraph}\n\n"
    every = max(1, len(stretches) // questions)
    chosen = [part.strip() for part in stretches[::every] if part.strip()][:questions]
    tags = {"domain": domain or file.stem}
    return Task(tuple(text(str(number), part, tags=tags) for number, part in enumerate(chosen)), "language")
