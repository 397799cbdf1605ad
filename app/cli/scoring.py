"""``plaudit score``: scores a file of replies with an adapter of the service or a directory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from app.cli.client import connect
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import notes, plain
from app.cli.score_files import Group, format_row, last_row, parse_group, read_lines
from app.cli.short_ids import full_id
from app.cli.verification import SUMMARY, base_directory
from plaudit import Plaudit, params
from plaudit.models import ScoreBatchRead

#: Rows in one request.
ROWS_AT_ONCE = 64
#: Largest difference of two scores of the same text, as a share of 1 + |score|, also in bfloat16.
SAME_SCORE = 1e-2
#: Returns the scores of each group, and the digest of the model.
Score = Callable[[list[Group]], tuple[list[list[float]], str]]


def score(
    adapter: Annotated[
        str,
        typer.Argument(
            help="Adapter id (ad_…), its first digits, or a directory with a downloaded adapter."
        ),
    ],
    out: Annotated[
        Path, typer.Option(dir_okay=False, help="File for the scores; an existing one is resumed.")
    ],
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Replies in JSON lines.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Id (ds_…) of a dataset to score instead of a file; a worker does it."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Base model of an adapter directory: a directory or a catalogue id."),
    ] = None,
    are_texts_cut: Annotated[
        bool,
        typer.Option("--truncate", help="Cut the replies of a dataset that are too long."),
    ] = False,
) -> None:
    """Score every reply of a file or of a dataset.

    A line has a prompt and either responses (a list), or chosen and rejected, or response; or it
    has messages. Texts and lists of messages are accepted. Each line of the output has the line
    number, the id if there is one, and the scores. A repeated call skips lines that are scored.
    A dataset is scored by a job; a repeated call waits for the same job, for 24 hours.
    """
    if (file is None) == (dataset is None):
        raise CommandError("Name a file or a --dataset.", ExitCode.USAGE)
    if file is None:
        assert dataset is not None
        _score_dataset(adapter, dataset, out, are_texts_cut=are_texts_cut)
    else:
        _score_file(adapter, file, out, base)


def _score_dataset(adapter: str, dataset: str, out: Path, *, are_texts_cut: bool) -> None:
    """Have a worker score a dataset, and download the scores."""
    with connect() as client:
        spec: params.ScoreBatchSpec = {
            "adapter": full_id(client, "ad", adapter),
            "dataset": full_id(client, "ds", dataset),
            "overlong": "truncate" if are_texts_cut else "drop",
        }
        if out.exists() and not _is_downloaded(client, spec, out):
            raise CommandError(f"{out} exists.", ExitCode.USAGE, "Choose another file with --out.")
        batch = _request_batch(client, spec)
        try:
            notes.print(plain(f"{batch.id} is {batch.status}.", "dim"))
            found = client.score_batches.wait(batch.id)
        except KeyboardInterrupt:
            notes.print(plain("The batch continues. Repeat the command to get its scores."))
            raise
        if found.failure is not None:
            failure = found.failure
            raise CommandError(
                f"{failure.code}: {failure.detail}", ExitCode.FAILED, failure.hint
            )  # fmt: skip
        if found.result is None:
            raise CommandError(f"{batch.id} is {found.status}.", ExitCode.CANCELLED)
        client.score_batches.download(batch.id, out)
    for reason, rows in found.result.left_out.items():
        notes.print(plain(f"{rows.rows} rows have no scores: {reason}.", "bold red"))
    notes.print(plain(f"{found.result.scored} rows are scored in {out}."))


def _request_batch(client: Plaudit, spec: params.ScoreBatchSpec) -> ScoreBatchRead:
    """Return the batch of an earlier call with the same arguments, or a new one.

    The idempotency key is derived from the arguments. A batch that failed or was cancelled is not
    continued: its id makes the key of the next one.
    """
    before = ""
    while True:
        digest = hashlib.sha256(json.dumps([spec, before], sort_keys=True).encode()).hexdigest()
        batch = client.score_batches.create(idempotency_key=f"plaudit-score-{digest}", **spec)
        if batch.status not in ("failed", "cancelling", "cancelled"):
            return batch
        before = batch.id


def _is_downloaded(client: Plaudit, spec: params.ScoreBatchSpec, out: Path) -> bool:
    """Return whether a file has the scores of an earlier batch with the same arguments."""
    with out.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    for item in client.score_batches.list():
        is_same = (item.adapter, item.dataset) == (spec["adapter"], spec["dataset"])
        if is_same and item.status == "succeeded":
            batch = client.score_batches.get(item.id)
            is_same = batch.spec.overlong == spec["overlong"]
            if is_same and batch.result is not None and batch.result.sha256 == sha256:
                return True
    return False


def _score_file(adapter: str, file: Path, out: Path, base: str | None) -> None:
    """Score the lines of a file that the output does not have yet."""
    last = last_row(out)
    done, spec = (0, None) if last is None else (last["line"], last["score_spec"])
    with ExitStack() as stack:
        if Path(adapter).is_dir():
            score_groups = stack.enter_context(_Local(Path(adapter), base))
        else:
            client = stack.enter_context(connect())
            adapter_id = full_id(client, "ad", adapter)

            def score_groups(groups: list[Group]) -> tuple[list[list[float]], str]:
                answer = client.score(adapter_id, groups=groups, if_score_spec=spec)  # type: ignore[arg-type]
                return [data.scores for data in answer.data], answer.score_spec

        opened = stack.enter_context(out.open("a", encoding="utf-8"))
        lines = read_lines(stack.enter_context(file.open("rb")))
        if last is not None:
            _check_same(last, next((line for line in lines if line[0] >= done), None), score_groups)
        count = _score_lines(lines, opened, score_groups, spec)
    notes.print(plain(f"{out} has the scores of {done + count} lines."))


def _check_same(last: dict[str, Any], line: tuple[int, str] | None, score_groups: Score) -> None:
    """Score the last line of the output again: the rest must not be of another file or model."""
    is_same = line is not None and line[0] == last["line"]
    if line is not None and is_same:
        group = parse_group(*line)
        ((scores, *_), spec) = score_groups([group])
        known = last["scores"]
        is_same = (spec, group.get("id"), len(scores)) == (
            last["score_spec"], last.get("id"), len(known)
        ) and all(
            abs(a - b) <= SAME_SCORE * (1 + abs(b)) for a, b in zip(scores, known, strict=True)
        )  # fmt: skip
    if not is_same:
        raise CommandError(
            "The output contains scores of another file or model.",
            ExitCode.FAILED,
            "Choose another file with --out.",
        )


def _score_lines(
    lines: Iterator[tuple[int, str]], out: IO[str], score_groups: Score, spec: str | None
) -> int:
    """Score the lines, append the results to ``out``, and return their number."""
    count = 0
    while batch := list(islice(lines, ROWS_AT_ONCE)):
        rows = [(number, parse_group(number, line)) for number, line in batch]
        scores, found = score_groups([group for _, group in rows])
        if spec is not None and found != spec:
            raise CommandError(
                "The output contains scores of another model.",
                ExitCode.FAILED,
                "Choose another file with --out.",
            )
        for (number, group), of_row in zip(rows, scores, strict=True):
            known = {"id": group["id"]} if "id" in group else {}
            row = {"line": number, **known, "scores": of_row, "score_spec": found}
            out.write(format_row(row))
        out.flush()
        count += len(batch)
        notes.print(plain(f"scored up to line {batch[-1][0]}"))
    return count


class _Local:
    """Scores with an adapter directory in a separate process with torch. A context manager."""

    def __init__(self, directory: Path, base: str | None) -> None:
        if not (directory / SUMMARY).is_file():
            raise CommandError(
                f"{directory} contains no adapter: {SUMMARY} is missing.", ExitCode.USAGE
            )
        self._command = [
            sys.executable, "-P", "-m", "worker.scorer.local", str(directory.resolve()),
            "--base", str(base_directory(base, directory)),
        ]  # fmt: skip

    def __enter__(self) -> Score:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self._score

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, so that it exits

    def _score(self, groups: list[Group]) -> tuple[list[list[float]], str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(groups) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process exited, and printed the reason on stderr
        line = self._process.stdout.readline()
        if not line:
            raise CommandError("The adapter could not be loaded.", ExitCode.FAILED)
        answer = json.loads(line)
        if "error" in answer:
            raise CommandError(answer["error"], ExitCode.FAILED)
        return answer["scores"], answer["score_spec"]
