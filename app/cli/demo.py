"""``plaudit demo``: trains, downloads and scores on this machine, and checks every step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from app.base_models.catalogue import load_catalogue
from app.cli.adapters import download_to
from app.cli.card_script import card_script, run_script
from app.cli.client import page_of_job
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import notes, plain
from app.cli.own_service import own_service
from app.cli.uploads import upload_files
from app.cli.watching import newest_metrics, watch
from app.core.settings import Settings
from plaudit import Job, Plaudit

#: The examples of a checkout; an installed package does not contain them.
EXAMPLES = Path(__file__).parents[2] / "examples"
MIN_ACCURACY, MIN_GAIN = 0.75, 0.15

QUESTION = "My bicycle tyre goes flat overnight. How do I find the hole?"
GOOD_REPLY = (
    "Take the tube out and pump it up. Hold it under water and turn it slowly. Bubbles show where "
    "the hole is. Mark it, let the tube dry, then glue a patch on."
)
BAD_REPLY = (
    "That depends on a lot of things, so it is hard to say. Some people find it, others do not. "
    "It might be one thing or another. You could always ask somebody else."
)


@dataclass
class Checks:
    """The checks of the demo and their results."""

    outcomes: list[bool] = field(default_factory=list)

    def record(self, claim: str, *, is_true: bool) -> None:
        """Print and record whether a check passed."""
        self.outcomes.append(is_true)
        mark = ("passed  ", "green") if is_true else ("failed  ", "bold red")
        notes.print(Text.assemble(mark, plain(claim)), soft_wrap=True)

    @property
    def all_passed(self) -> bool:
        """Whether every check so far passed."""
        return all(self.outcomes)


def demo(
    data_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Directory for the data of the demo's service.")
    ] = Path(".plaudit-demo"),
    examples: Annotated[
        Path, typer.Option(file_okay=False, help="Directory with the example pairs.")
    ] = EXAMPLES,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed; default: the one in demo.json.")
    ] = None,
) -> None:
    """Train a reward model on this machine, download it and score with it.

    Starts a private service (SQLite, no broker, CPU) and stops it at the end. Exits with 0 only
    if every check passed.
    """
    started_at = time.monotonic()
    spec = _read_spec(examples, seed)
    checks = Checks()
    with own_service(data_dir) as client:
        _say("service", f"{client.url}  data, log and API key in {data_dir}")
        job = _train(client, examples, spec)
        if job.status != "succeeded" or job.adapter_id is None:
            if failure := job.failure:
                notes.print(plain(f"{failure.code}: {failure.detail}", "red"))
                notes.print(plain(failure.hint))
            _show_log(job)
            raise CommandError(f"The job has the status {job.status}.", ExitCode.FAILED)
        _judge(checks, newest_metrics(client, job.id), examples / "heldout.jsonl")
        directory = data_dir / "adapters" / job.adapter_id
        adapter = download_to(client, job.adapter_id, directory)
        claim = f"sha256 of {len(adapter.files)} files in {directory} is correct"
        checks.record(claim, is_true=True)  # otherwise the download raises
    _score(checks, spec["base_model"], data_dir, directory)
    notes.print(plain(f"{time.monotonic() - started_at:.0f} seconds"))
    if not checks.all_passed:
        raise CommandError("Some checks failed.", ExitCode.FAILED)
    notes.print(plain("All checks passed.", "bold green"))
    _say("see the job again", f"PLAUDIT_DATA_DIR={data_dir} {sys.argv[0]} serve")


def longer_is_better(pairs: Iterable[Any]) -> float:
    """Return the share (0 to 1) of pairs whose longer reply in characters is the chosen one.

    Replies of equal length count half.
    """
    outcomes = [
        0.5 if chosen == rejected else float(chosen > rejected)
        for chosen, rejected in (
            (_length(pair["chosen"]), _length(pair["rejected"])) for pair in pairs
        )
    ]
    return sum(outcomes) / len(outcomes)


def _train(client: Plaudit, examples: Path, spec: dict[str, Any]) -> Job:
    """Upload the pairs, submit the job, follow it, and return it when it has ended."""
    for key, name in (("train_dataset", "preferences.jsonl"), ("eval_dataset", "heldout.jsonl")):
        dataset = upload_files(client, [examples / name])
        spec[key] = dataset.id
        _say("uploaded", f"{dataset.pair_count} pairs of {name} as {dataset.id}")
    with notes.status("inspecting the base model; the first time it is downloaded (84 MB)"):
        job = client.jobs.create(spec)
    _say("job", job.id)
    _say("its page", page_of_job(client, job.id))
    job, _ = watch(client, job.id)
    return job


def _judge(checks: Checks, metrics: dict[str, float], heldout: Path) -> None:
    """Compare the accuracy with that before training and with that of choosing the longer reply."""
    before, after = metrics["eval_before/accuracy"], metrics["eval/accuracy"]
    baseline = longer_is_better(_pairs(heldout))
    notes.print()
    _say("accuracy on held-out pairs", "")
    _say("  before training", f"{before:.3f}")
    _say("  after training", f"{after:.3f}")
    _say("  longer is better", f"{baseline:.3f}")
    checks.record(f"after ≥ {MIN_ACCURACY}", is_true=after >= MIN_ACCURACY)
    checks.record(f"after ≥ before + {MIN_GAIN}", is_true=after >= before + MIN_GAIN)
    checks.record("after > longer is better", is_true=after > baseline)


def _score(checks: Checks, base_model: str, data_dir: Path, directory: Path) -> None:
    """Score two replies with the downloaded files and PEFT, without the service."""
    # The worker has already downloaded the base model.
    # It imports the library of the hub, which other commands do not need.
    from app.base_models.sources import fetch

    base = fetch(load_catalogue().get(base_model), Settings(data_dir=data_dir).model_cache).path
    card = (directory / "README.md").read_text()
    prompt = [{"role": "user", "content": QUESTION}]
    script = data_dir / "score.py"
    script.write_text(card_script(card, base, prompt, [GOOD_REPLY, BAD_REPLY]))
    show_program(notes, script)
    with notes.status("scoring in a new process"):
        good, bad = run_script(script, directory)
    _say("good reply", f"{good:+.3f}")
    _say("bad reply", f"{bad:+.3f}")
    checks.record("the good reply scores higher", is_true=good > bad)


def show_program(console: Console, path: Path) -> None:
    """Print a program between two horizontal rules, with its line breaks, so that it can be
    copied."""
    console.print(Rule(str(path), style="dim"))
    # Printing the Syntax object would cut lines off at the width of the terminal.
    text = Syntax("", "python", background_color="default").highlight(path.read_text())
    console.print(text, soft_wrap=True, end="")
    console.print(Rule(style="dim"))


def _read_spec(examples: Path, seed: int | None) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = json.loads((examples / "demo.json").read_text())
    except OSError as error:
        raise CommandError(
            f"The example pairs are not in {examples}.",
            ExitCode.USAGE,
            "They are part of the repository: clone it, or give their directory with --examples.",
        ) from error
    if seed is not None:
        spec["training"]["seed"] = seed
    return spec


def _show_log(job: Job) -> None:
    notes.print(plain("".join(piece.text for piece in job.logs(tail=5))[-4000:], "dim"))


def _pairs(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _length(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _say(what: str, text: str) -> None:
    notes.print(Text.assemble((f"{what:<20}", "bold"), plain(text)), soft_wrap=True)
