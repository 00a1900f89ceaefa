"""The command line: verbs only, no logic."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stillhouse.errors import StillhouseError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Distil a large language model into a small one, and know what was kept and what was lost.\n\n"
    "Start with [bold]stillhouse run recipe.yaml[/]; the recipes/ folder of the project has some to begin with.",
)
data_app = typer.Typer(no_args_is_help=True, help="What a recipe learns from.")
app.add_typer(data_app, name="data")
START_SECONDS = 6.0
"""What importing torch and transformers takes on two CPU cores, about."""

RecipeFile = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
SchemaOf = Literal["recipe", "report"]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder, such as runs/demo.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe: section.key=value, such as trainer.steps=100.", show_default=False),
]


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Distil: train the student of a recipe, compare it with its teacher, write the report.

    The same command starts a run, continues it after any interruption, and answers at once when it is done.
    On several processes: torchrun --nproc-per-node 2 -m stillhouse run recipe.yaml
    """
    from stillhouse.progress import timed

    console = Console()
    with timed(console if os.environ.get("RANK", "0") == "0" else None, "Starting", START_SECONDS):
        from stillhouse.recipe import load
        from stillhouse.run import run as verb
        from stillhouse.trainer import distributed

        settings = load(recipe, overrides or ())
    try:
        verb(settings, console=console)
    finally:
        distributed.stop()


@app.command()
def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    measure: Annotated[bool, typer.Option(help="Time this machine for an estimate of the run's length.")] = True,
) -> None:
    """Tell what is wrong with a recipe and what it will cost, without loading weights."""
    from stillhouse.check import check as verb
    from stillhouse.check import costs
    from stillhouse.progress import duration
    from stillhouse.recipe import load

    settings = load(recipe, overrides or ())
    verb(settings)
    found = costs(settings, measure=measure)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("teacher", f"{escape(found.teacher)}, {found.teacher_parameters:,} parameters")
    table.add_row("student", f"{found.student_parameters:,} parameters, {found.ratio:.1f} times fewer")
    if found.trained_parameters != found.student_parameters:
        table.add_row("trains", f"{found.trained_parameters:,} parameters, its adapters'")
    table.add_row("learns from", f"{found.tokens:,} tokens in {settings.trainer.steps:,} steps")
    table.add_row("arithmetic", f"{2 * found.operations / 1e12:,.1f} TFLOP, with the control")
    table.add_row("memory", f"about {found.memory / 2**30:.1f} GiB")
    if found.seconds is not None:
        table.add_row("time", f"about {duration(found.seconds)} of training on this machine, in float32")
    table.add_row("fingerprint", settings.fingerprint())
    Console().print(table)


@app.command()
def plan(
    teacher: Annotated[
        str, typer.Argument(help="A hub id, a folder, a .gguf file, or pkg:PACKAGE.", show_default=False)
    ],
    goal: Annotated[
        list[str],
        typer.Option(
            "--goal", "-g", help="May be given often; all must hold. See the examples above.", show_default=False
        ),
    ],
    write: Annotated[
        Path | None, typer.Option(help="Write a recipe here: ready to run, with the reasons as comments.")
    ] = None,
    choose: Annotated[int, typer.Option(min=1, help="Which row of the table --write takes.")] = 1,
    plot: Annotated[
        Path | None, typer.Option(help="Draw size against quality and latency into this .html or .svg file.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Text for the recipe, such as 'books/*.txt'; may be given often.")
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(help="How its classes lie: '{text: sentence, label: label, classes: [negative, positive]}'."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            help="Time this machine, some seconds, for latency and training time; ask the teacher about --data."
        ),
    ] = True,
) -> None:
    """Find students for a goal, before anything is trained: how large, how fast, how good, at what cost, and which recipe.

    [bold]10x[/] · [bold]20M[/] · [bold]"200 MB int4"[/] (the weights' file) · [bold]"512 MB of memory"[/] or edge, phone, laptop ·
    [bold]"p50 30 ms per token"[/] on this machine · budgets of training: [bold]"8M tokens"[/], [bold]"4 h"[/]

    Shows students with fewer layers, narrower ones and both, with the whole and with a trimmed vocabulary, the recommended one
    first. Sizes are exact, latency is predicted from small models timed here, the share of quality kept is what the guide expects
    of such a compression and is not measured. Then: stillhouse plan TEACHER --goal 10x --write recipe.yaml, and
    stillhouse run recipe.yaml.
    """
    from stillhouse.plan import plan as verb
    from stillhouse.plan.picture import draw, show

    found = verb(teacher, goal, data=data or (), labelled=_mapping("--labelled", labelled), measure=measure)
    console = Console()
    show(found, console)
    if plot is not None:
        draw(found, plot)
        console.print(f"Drawn into {plot}", highlight=False)
    if write is not None:
        found.write(write, choose)
        console.print(f"Recipe: {write}. Look at it, then: stillhouse run {write}", highlight=False)


def _mapping(where: str, text: str | None) -> dict[str, Any] | None:
    """An option that is a small mapping in YAML."""
    import yaml

    from stillhouse.errors import RecipeError, fail

    if text is None:
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        way_out = "Write it as in a recipe: '{text: sentence, label: label, classes: [negative, positive]}'."
        raise fail(RecipeError, where, f"'{text}' is no mapping", way_out)
    return value


@app.command()
def label(
    recipe: RecipeFile,
    overrides: Overrides = None,
    shard: Annotated[
        str, typer.Option(help="Only one part of the text, i/n: parts may be labelled on different machines.")
    ] = "1/1",
) -> None:
    """Store what the teacher says of a recipe's text: it runs once, and never again while students learn from it.

    The recipe's teacher is {name: store, path: stores/mine, model: THE TEACHER}; `stillhouse run` then learns from the store.
    An interruption costs one unfinished shard; the same command goes on.
    """
    from stillhouse.errors import RecipeError, fail
    from stillhouse.label import label as verb
    from stillhouse.recipe import load

    number, slash, parts = shard.partition("/")
    if not (slash and number.isdigit() and parts.isdigit()):
        raise fail(RecipeError, "--shard", f"'{shard}' is no part of a whole", "Write --shard 3/16.")
    path = verb(load(recipe, overrides or ()), console=Console(), shard=(int(number), int(parts)))
    Console().print(f"Store: {path}", highlight=False)


@data_app.command()
def look(
    recipe: RecipeFile,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 8,
    step: Annotated[int, typer.Option(min=0, help="Of the training run, from 0.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Also write it into this .html file.")] = None,
) -> None:
    """Show a recipe's text as the model will see it: rows, which tokens carry loss, what each task has, lengths, difficulty.

    The text is prepared in the run's folder, where the run finds it again. No weights are loaded, unless the teacher writes text.
    """
    from stillhouse.check import check as verb
    from stillhouse.files import write_text
    from stillhouse.look import look as see
    from stillhouse.look.page import render
    from stillhouse.look.terminal import show
    from stillhouse.recipe import load

    settings = load(recipe, overrides or ())
    verb(settings)
    console = Console()
    found = see(settings, rows=rows, step=step, console=console)
    show(found, console)
    if html is not None:
        write_text(html, render(found))
        console.print(f"Page: {html}", highlight=False)


@app.command()
def synthesize(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Let the teacher write a recipe's text: answers to prompts, or what goes on from real documents; runs then read it.

    What it writes are the recipe's sources {name: written, prompts: …}; see docs/synthesize.md. Each row says where it came from.
    An interruption costs one batch of texts; the same command goes on.
    """
    from stillhouse.progress import timed

    console = Console()
    with timed(console, "Starting", START_SECONDS):
        from stillhouse.recipe import load
        from stillhouse.synthesize import synthesize as verb

        settings = load(recipe, overrides or ())
    verb(settings, console=console)


@app.command()
def inspect(
    teacher: Annotated[
        str, typer.Argument(help="A hub id, a folder, a .gguf file, or pkg:PACKAGE.", show_default=False)
    ],
    prompt: Annotated[str, typer.Argument(help="The text before the token.")] = "The capital of France is",
    temperature: Annotated[list[float] | None, typer.Option("--temperature", "-T", help="May be given often.")] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="Tokens to show.")] = 10,
    plot: Annotated[Path | None, typer.Option(help="Also draw them into this .svg file.")] = None,
) -> None:
    """Show the teacher's soft distribution after a prompt, at several temperatures.

    This is what a student learns from: not only the likeliest token, but how likely all the others are.
    """
    from stillhouse.teacher.distribution import inspect as verb
    from stillhouse.teacher.picture import draw, show

    found = verb(teacher, prompt, temperatures=tuple(temperature or (1.0, 2.0, 4.0)), top=top)
    show(found, Console())
    if plot is not None:
        draw(found, plot)
        Console().print(f"Drawn into {plot}")


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(help="Only this kind.")] = None) -> None:
    """List the strategies that a recipe can name, by kind."""
    from stillhouse.errors import RecipeError, did_you_mean, fail
    from stillhouse.find import KINDS, describe, names

    if kind is not None and kind not in KINDS:
        raise fail(RecipeError, kind, "there is no such kind of strategy", did_you_mean(kind, KINDS))
    console = Console()
    for each in [kind] if kind else KINDS:
        table = Table(show_header=False, box=None, pad_edge=False)
        for name in names(each):
            table.add_row(f"  [bold]{name}[/]", escape(describe(each, name).split("\n")[0]))
        console.print(f"[underline]{each}[/]")
        console.print(table)


@app.command()
def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(help="A run's folder; with --import the teacher's log and the student's.", show_default=False),
    ],
    judge: Annotated[bool, typer.Option("--judge", help="New verdicts from the stored table; loads no model.")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="For scripts: exit 0 PASS, 1 FAIL, 2 undecided, 3 error.")
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Ask this task and read no text again; may be given often. See: stillhouse list task."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --task: questions at most, of each.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Judge by this YAML file (retention, measures) instead of the recipe.")
    ] = None,
    import_: Annotated[
        str | None, typer.Option("--import", help="Judge logs of lm-eval, lighteval or helm, of teacher and student.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell what the stored items can decide, and how many a PASS takes.")
    ] = False,
    out: Annotated[Path, typer.Option(help="With --import: the folder for table and report.")] = Path("runs/imported"),
) -> None:
    """Compare a run's student with its teacher on held-out text and tasks, again.

    [bold]stillhouse evaluate runs/demo --task recall --task chains[/] · [bold]--judge --policy policy.yaml --gate[/] ·
    [bold]stillhouse evaluate --import lm-eval TEACHER.jsonl STUDENT.jsonl[/]
    """
    from stillhouse.errors import RunError, fail
    from stillhouse.evaluate.gates import exit_code
    from stillhouse.report import report as write
    from stillhouse.run import evaluate as verb
    from stillhouse.run import import_logs

    console = Console()
    run = out if import_ else paths[0]
    try:
        if len(paths) != (2 if import_ else 1):
            what = "two logs are needed, the teacher's and the student's" if import_ else "one run's folder is needed"
            raise fail(RunError, " ".join(map(str, paths)), what)
        if plan:
            _show_plan(paths[0], console)
            return
        if import_:
            found = import_logs(import_, paths[0], paths[1], out, policy=policy)
        else:
            asked = [{"name": name, "limit": limit} for name in task or ()]
            found = verb(run, judge_only=judge, tasks=asked, policy=policy, console=console)
    except StillhouseError as error:
        if gate:  # 2 means undecided there
            error.exit_code = 3
        raise
    page = write(run)
    console.print(f"[bold]{found['verdict']}[/] {escape(found['sentence'])}\nReport: {page}", highlight=False)
    if gate:
        raise typer.Exit(exit_code(found["verdict"]))


def _show_plan(run: Path, console: Console) -> None:
    from stillhouse.evaluate import plan as verb
    from stillhouse.report.words import number
    from stillhouse.run import load_resolved

    table = Table(
        "gate", "of", "must hold", "items", "clusters", "a PASS takes", "decides from", box=None, pad_edge=False
    )
    settings = load_resolved(run) if (run / "recipe.yaml").exists() or not (run / "evaluation").exists() else None
    rows = verb(run, settings)
    for row in rows:
        takes = "–" if row.needed is None else f"{row.needed:,} {row.one}s"
        mark = "[green]✓[/]" if row.passes else "[yellow]✗[/]"
        seen = "–" if row.seen is None else f"± {number(row.seen)} {row.unit}"
        table.add_row(
            f"{mark} {row.gate}", escape(row.of), row.rule, f"{row.items:,}", f"{row.clusters:,}", escape(takes), seen
        )
    console.print(table)
    for row in rows:
        if row.why:
            console.print(f"{escape(row.of)}: {escape(row.why)}.", highlight=False)
    console.print(
        "✓ a student as good as the teacher would pass on these items with 80 % power; ✗ it would not: ask more, or ask for less."
    )


@app.command()
def refine(recipe: RecipeFile, overrides: Overrides = None) -> None:
    r"""Distil, find what the student is weak at, and mend it: round after round, until every gate holds.

    The recipe names what held-out texts are sliced by, and how long to go on:

      evaluate: {slices: \\[domain, class, length], measures: \\[accuracy, declared, calibration]}
      refine:   {rounds: 3, trainer: {steps: 300}, pool: \\[{name: jsonl, path: more.jsonl, …}]}

    Held-out texts are parted by a hash: 40 % show where the student is weak, 30 % judge each round, 30 % stay sealed and are
    opened once, at the end. Each round goes on from the last student, in a run of its own (rounds/1 …) whose recipe can be run by
    hand; one that costs more than refine.margin elsewhere is rolled back. The same command goes on after any interruption.
    What can be done: stillhouse list action. See docs/refine.md.
    """
    from stillhouse.progress import timed

    console = Console()
    with timed(console, "Starting", START_SECONDS):
        from stillhouse.recipe import load
        from stillhouse.refine import refine as verb

        settings = load(recipe, overrides or ())
    verb(settings, console=console)


@app.command()
def profile(
    run: RunFolder,
    prompt: Annotated[int, typer.Option(min=1, max=768, help="Tokens that are read first.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, max=200, help="Tokens written after them, in each block.")] = 32,
    blocks: Annotated[int, typer.Option(min=1, help="How often each has its turn.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores if not given.")] = None,
    watts: Annotated[
        float | None,
        typer.Option(min=0.01, help="Assumed power, for an estimate of energy; else the processor's counter."),
    ] = None,
    throughput: Annotated[bool, typer.Option("--throughput", help="Also several texts at once.")] = False,
    speculative: Annotated[
        bool,
        typer.Option("--speculative", help="Also the student as a draft for its teacher: what is kept, what is won."),
    ] = False,
    gate: Annotated[
        bool,
        typer.Option("--gate", help="For scripts: does a file fit the target? 0 PASS, 1 FAIL, 2 undecided, 3 error."),
    ] = False,
) -> None:
    """Time a run's teacher, student and exported files, in turns, and tell where the time goes.

    Each runs in a process of its own: its memory and its start are what a user will see. See docs/profile.md.
    The budgets of the recipe's section deploy are judged by it: see docs/deploy.md.
    """
    from stillhouse.evaluate.gates import exit_code
    from stillhouse.profile import profile as verb
    from stillhouse.profile.terminal import show

    console = Console()
    try:
        found = verb(
            run,
            prompt=prompt,
            tokens=tokens,
            blocks=blocks,
            threads=threads,
            watts=watts,
            throughput=throughput,
            speculative=speculative,
            console=console,
        )
    except StillhouseError as error:
        if gate:  # 2 means undecided there
            error.exit_code = 3
        raise
    show(found, console)
    if gate:
        raise typer.Exit(exit_code(found.fit.verdict if found.fit else "NOT MEASURED"))


@app.command()
def chat(
    what: Annotated[
        str,
        typer.Argument(
            help="A run's folder, or a model: a folder, a hub id, a .gguf file, pkg:PACKAGE.", show_default=False
        ),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Say this and end; may be given often. Else lines of a pipe, or you."),
    ] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="A run's teacher instead of its student.")] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Student and teacher.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A line for each token: how likely it was, and what else was.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Continue texts, even if there is a chat template.")] = False,
    tokens: Annotated[int, typer.Option(min=1, help="Of an answer, at most.")] = 200,
    temperature: Annotated[float, typer.Option("--temperature", "-T", min=0.0, help="0 takes the likeliest.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Only the likeliest that have this share.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
) -> None:
    """Talk to a student, to its teacher, or to both at once; a classifier tells its classes."""
    from stillhouse.progress import timed

    console = Console()
    with timed(console if sys.stdin.isatty() and not prompt else None, "Loading", START_SECONDS):
        from stillhouse.chat import Manner, speakers
        from stillhouse.chat.terminal import converse

        manner = Manner(tokens, temperature, top_p, seed, not plain)
        who = speakers(what, manner, teacher=teacher, side_by_side=side_by_side)
    converse(who, prompt or (), console, probabilities=probabilities)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    run: RunFolder,
    artefact: Annotated[str | None, typer.Option(help="Which file, such as gguf-q8_0; the first that can be.")] = None,
    host: Annotated[str, typer.Option(help="To listen on; 0.0.0.0 for all of the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = 8080,
    tokens: Annotated[int, typer.Option(min=8, help="Of a request and its answer together, at most.")] = 2048,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the engine's choice if not given.")] = None,
    python: Annotated[str | None, typer.Option(help="The Python that has the engine, if not this one.")] = None,
) -> None:
    """Serve a student through an engine that is there: llama.cpp for GGUF files, vLLM for the student's folder.

    An OpenAI-compatible endpoint. What follows -- goes to the engine: [bold]stillhouse serve runs/demo -- --dtype float32[/]
    """
    from stillhouse.serve import plan
    from stillhouse.serve import serve as verb

    planned = plan(
        run,
        artefact=artefact,
        host=host,
        port=port,
        context=tokens,
        threads=threads,
        python=python,
        extra=[argument for argument in context.args if argument != "--"],
    )
    raise typer.Exit(verb(planned, Console()))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs' folders, such as runs/demo.", show_default=False)],
    html: Annotated[Path | None, typer.Option(help="Also write the page, with charts, into this .html file.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the numbers into this .json file.")] = None,
) -> None:
    """Hold quality against size, latency and energy: all files of a run, and of several runs.

    Reads what the runs have measured (stillhouse evaluate, stillhouse profile) and says what they have not.
    """
    from stillhouse.compare import compare as verb
    from stillhouse.compare.page import render
    from stillhouse.compare.terminal import show
    from stillhouse.files import write_json, write_text

    console = Console()
    found = verb(runs)
    show(found, console)
    if html is not None:
        write_text(html, render(found))
        console.print(f"Page: {html}", highlight=False)
    if json_ is not None:
        write_json(json_, found.to_dict())
        console.print(f"Numbers: {json_}", highlight=False)


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report.html, report.json and model card again from its files."""
    from stillhouse.report import report as verb

    Console().print(f"Report: {verb(run)}", highlight=False)


@app.command()
def schema(
    of: Annotated[SchemaOf, typer.Argument(help="A recipe, for editors; or report.json, for programs.")] = "recipe",
) -> None:
    """Print the JSON schema of a recipe or of report.json."""
    if of == "recipe":
        from stillhouse.recipe import schema as verb
    else:
        from stillhouse.told import schema as verb
    sys.stdout.write(json.dumps(verb(), indent=2) + "\n")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line: a user's mistake is one message and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return app(arguments)
    except StillhouseError as error:
        stop = Console(stderr=True)
        count = len(error.problems)
        if count > 1:
            stop.print(f"[bold red]{count} things are wrong:[/]")
        for problem in error.problems:
            stop.print(f"[bold red]✗[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
