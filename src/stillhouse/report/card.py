"""The model card: Markdown with YAML front matter. All that recipes and models say is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stillhouse.report import artefacts, filters, page, words
from stillhouse.report.read import Run, mapping
from stillhouse.report.words import escape_markdown, fence

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_TEXT_LIMIT = 400


def card(run: Run) -> str:
    """The model card of a run."""
    view = page.build(run)
    parts = [
        f"---\n{yaml.safe_dump(front_matter(run), sort_keys=False, allow_unicode=True)}---",
        f"# {escape_markdown(run.name)}",
        _what(view),
        "## How it was made",
        _made(run),
        "## Measured",
        _measured(view),
        _exported(run),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(view)),
        "## How to load",
        _loading(run),
        "## Samples",
        _samples(view),
        "## How to reproduce",
        _reproduce(run),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def front_matter(run: Run) -> dict[str, Any]:
    """What a model hub reads. A licence or base model that is not known is left out, never guessed."""
    out: dict[str, Any] = {}
    licence = _licence(run)
    if licence:
        out["license"] = licence
    teacher = page.teacher_name(run)
    if _HUB_ID.fullmatch(teacher) and not teacher.endswith(".gguf") and not Path(teacher).exists():
        out["base_model"] = teacher
    out["library_name"] = "transformers"
    out["pipeline_tag"] = "text-classification" if run.classes else "text-generation"
    out["tags"] = ["stillhouse", "distillation", "knowledge-distillation"]
    return out


def _licence(run: Run) -> str | None:
    models = run.evaluation.get("models")
    for role in ("student", "teacher"):
        model = models.get(role) if isinstance(models, Mapping) else None
        value = model.get("license") if isinstance(model, Mapping) else None
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9.-]{2,40}", value):
            return value.lower()
    return None


def _what(view: page.Page) -> str:
    size = next((t for t in view.tiles if t.label == "Size" and not t.missing), None)
    kind = f"A classifier of texts into {len(view.run.classes)} classes" if view.run.classes else "A language model"
    text = f"{kind} distilled from **{escape_markdown(view.teacher)}** with Stillhouse."
    if size:
        text += f" It is {size.big} ({escape_markdown(size.small)})."
    return f"{text}\n\n**Verdict: {escape_markdown(view.verdict.word)}.** {escape_markdown(f'{view.sentence} {view.more}')}"


def _name(value: Any) -> str:
    if isinstance(value, Mapping):
        options = ", ".join(f"{k} {words.plain(v)}" for k, v in value.items() if k not in ("name", "format"))
        return f"{value.get('name', '?')}" + (f" ({page.private(options)})" if options else "")
    return str(value)


def _made(run: Run) -> str:
    recipe = run.recipe
    if not recipe:
        return f"Not known: recipe.yaml is missing. Make it with `{_command(run, 'recipe.yaml')}`."
    objective, trainer, data = (mapping(recipe.get(k)) for k in ("objective", "trainer", "data"))
    sources = data.get("sources")
    rows = [
        ("Teacher", page.private(page.teacher_name(run))),
        ("Student", _name(recipe.get("student"))),
        ("Data", "; ".join(_name(s) for s in sources) if isinstance(sources, list) else "not recorded"),
        ("Soft loss", f"{_name(objective.get('soft', '?'))}, temperature {_name(objective.get('temperature', '?'))}"),
        (
            "Hard loss",
            f"{_name(objective.get('hard', '?'))}; share of the teacher {_name(objective.get('alpha', '?'))}",
        ),
        ("Further terms", "; ".join(_name(t) for t in objective.get("terms") or []) or "none"),
        ("Steps", f"{_name(trainer.get('steps', '?'))} of {_name(trainer.get('tokens_per_step', '?'))} tokens"),
    ]
    text = "| | |\n| --- | --- |\n" + "\n".join(f"| {k} | {escape_markdown(v)} |" for k, v in rows)
    facts = page.flat(filters.others(run.facts))[:12]
    if facts:
        text += "\n\nThe data, counted:\n\n| | |\n| --- | --- |\n"
        text += "\n".join(f"| {escape_markdown(k)} | {escape_markdown(v)} |" for k, v in facts)
    return text


def _measured(view: page.Page) -> str:
    if not view.cards:
        return f"Nothing yet. Measure with `{_command(view.run, 'evaluation.json')}`."
    out = []
    for found in view.cards:
        text = f"### {escape_markdown(found.question)}\n\n**{escape_markdown(found.verdict.word)}.** "
        text += escape_markdown(found.sentence)
        if found.rows:
            text += "\n\n| what | whose | 95 % interval | best guess | n |\n| --- | --- | --: | --: | --: |\n"
            text += "\n".join(
                "| " + " | ".join(escape_markdown(c) for c in (r.label, r.role, r.interval, r.value, r.n)) + " |"
                for r in found.rows
            )
        out.append(text)
    return "\n\n".join(out)


def _exported(run: Run) -> str:
    """The same student in other files, as each was found when it was tested again."""
    found = artefacts.rows(run)
    if not found:
        return ""
    lines = ["| " + " | ".join(map(escape_markdown, row)) + " |" for row in (artefacts.COLUMNS, *found)]
    table = "\n".join([lines[0], "| --- " * len(artefacts.COLUMNS) + "|", *lines[1:]])
    return f"## Other files\n\n{table}\n\n{escape_markdown(artefacts.note(run))}"


def _limits(view: page.Page) -> list[str]:
    told = dict.fromkeys(limit for c in view.cards for limit in c.limits)
    lines = [escape_markdown(limit) for limit in told]
    lines += [f"Not measured: {escape_markdown(text)}" for _, text in view.unmeasured]
    lines.append("It inherits the errors and biases of its teacher and of its data.")
    if not _licence(view.run):
        lines.append("No licence is recorded here: those of the teacher and of the data apply.")
    return lines


def _loading(run: Run) -> str:
    ours = any((run.folder / "student").glob("*.py"))  # of a class that transformers does not have
    trust = ", trust_remote_code=True" if ours else ""
    note = "\n\nThe code of its class lies beside the weights: read it before you trust it." if ours else ""
    if run.classes:
        return f"""```python
from transformers import pipeline

classify = pipeline("text-classification", "student"{trust})  # this folder, or the model's id on the hub
print(classify("A text."))
```{note}"""
    prompts = run.samples[0].get("prompt") if run.samples else None
    prompt = prompts if isinstance(prompts, str) and prompts.isascii() and len(prompts) < 80 else "Once upon a time"
    prompt = prompt if re.fullmatch(r"[A-Za-z0-9 ,.?!'-]+", prompt) else "Once upon a time"
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "student"  # this folder, or the model's id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder{trust})
inputs = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
```{note}"""


def _samples(view: page.Page) -> str:
    out = []
    for sample in view.samples[:3]:
        for said in sample.texts:
            if said.role == "student":
                shown, more = words.shorten(said.text, _TEXT_LIMIT)
                text = fence(f"{sample.prompt[:_TEXT_LIMIT]}▸{shown}" + ("…" if more or said.left_out else ""))
                out.append(text)
    if not out:
        return ""
    return "What the student wrote after ▸, unselected:\n\n" + "\n\n".join(out)


def _reproduce(run: Run) -> str:
    steps = "```sh\npip install stillhouse\nstillhouse run recipe.yaml\n```"
    fingerprint = run.evaluation.get("recipe_fingerprint")
    if isinstance(fingerprint, str) and fingerprint:
        steps += f"\n\nFingerprint of the recipe: {escape_markdown(fingerprint)}."
    if run.recipe_text and len(run.recipe_text) < 20_000:
        block = fence(page.private(run.recipe_text.rstrip())).replace("text\n", "yaml\n", 1)
        steps += f"\n\n<details><summary>recipe.yaml</summary>\n\n{block}\n\n</details>"
    return steps


def _command(run: Run, name: str) -> str:
    missing = run.missing.get(name)
    return missing.command if missing else "stillhouse run recipe.yaml"
