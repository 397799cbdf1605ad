"""Results of judged models in a model repository, as the Hub reads them.

``.eval_results/*.yaml`` is what the Hub shows beside a model; ``model-index`` in the metadata of
README.md is the older form, which tools read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    eval_result_entries_to_yaml,
)
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from app.cli.exit_codes import CommandError, ExitCode

CARD = "README.md"
TASK = "text-classification"
_HUB_DATASET = re.compile(r"^[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Measured:
    """Values of one model on one dataset, by metric."""

    dataset: str
    title: str
    values: Mapping[str, float]
    notes: str | None = None


@dataclass(frozen=True)
class HubResults:
    """Values of one model on some datasets, and where they come from."""

    name: str
    """Id of the evaluation or job that measured them: ``eval_…`` or ``job_…``."""
    measured: Sequence[Measured]
    url: str
    date: str

    def write(self, repository: Path) -> list[Path]:
        """Write them to a model repository; return the files.

        The model card is changed only if the repository has one. Earlier results on the same
        dataset are replaced.

        Raises:
            CommandError: README.md is not a model card.
        """
        directory = repository / EVAL_RESULTS_FOLDER
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{self.name}.yaml"
        entries = eval_result_entries_to_yaml(self._entries())
        file.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")
        card = repository / CARD
        if not card.exists():
            return [file]
        self._write_index(card)
        return [file, card]

    def _entries(self) -> list[EvalResultEntry]:
        return [
            EvalResultEntry(
                dataset_id=each.dataset,
                task_id=metric,
                value=value,
                date=self.date,
                source_url=self.url,
                source_name="Plaudit",
                notes=each.notes,
            )
            for each in self.measured
            for metric, value in each.values.items()
        ]

    def _write_index(self, path: Path) -> None:
        try:
            card = ModelCard.load(path)
        except ValueError as error:
            raise CommandError(
                f"{path} is not a model card: {error}",
                ExitCode.FAILED,
                "Download the adapter again, or name a directory without a README.md.",
            ) from error
        others = [each for each in card.data.eval_results or () if not self._is_same(each)]
        card.data.eval_results = [*others, *self._index()]
        card.data.model_name = card.data.model_name or "Reward model"
        card.save(path)

    def _is_same(self, result: EvalResult) -> bool:
        return result.dataset_type in {each.dataset for each in self.measured}

    def _index(self) -> list[EvalResult]:
        return [
            EvalResult(
                task_type=TASK,
                task_name="Preference ranking",
                dataset_type=each.dataset,
                dataset_name=each.title,
                metric_type="accuracy",
                metric_name=metric,
                metric_value=value,
                source_url=self.url,
                source_name="Plaudit",
            )
            for each in self.measured
            for metric, value in each.values.items()
        ]


def of_evaluation(
    evaluation: Mapping[str, Any], adapter: str | None, suites: Sequence[Any], url: str
) -> HubResults:
    """Return the results of one adapter of an evaluation; by default of its only one.

    Raises:
        CommandError: it has no result, did not judge this adapter, or judged several.
    """
    name = evaluation["id"]
    if evaluation["result"] is None:
        raise CommandError(
            f"{name} is {evaluation['status']}, so there are no results to write.", ExitCode.FAILED
        )
    models = {m["adapter"]: m for m in evaluation["result"]["models"] if m["adapter"][:3] == "ad_"}
    if adapter is None and len(models) > 1:
        raise CommandError(
            f"{name} judged {len(models)} adapters.",
            ExitCode.USAGE,
            f"Name the one whose repository this is: --adapter {next(iter(models))} …",
        )
    chosen = adapter or next(iter(models))
    if chosen not in models:
        raise CommandError(
            f"{name} did not judge {chosen}.", ExitCode.USAGE, f"It judged {', '.join(models)}."
        )
    return HubResults(
        name=name,
        measured=[_measured(evaluation, models[chosen], suites)],
        url=f"{url}/v1/evaluations/{name}",
        date=str(evaluation["finished_at"]),
    )


def of_job(report: Mapping[str, Any], url: str) -> HubResults:
    """Return the results of a training job on its held-out pairs and its named eval datasets.

    A dataset with several names has one result.

    Raises:
        CommandError: the job has no held-out pairs.
    """
    name, provenance = report["job_id"], report["provenance"]
    counts = (report["data"] or {}).get("pairs") or {}
    main = (provenance["eval_dataset"] or provenance["train_dataset"])["id"]
    share = (counts.get("eval") or {}).get("left_out_share")
    found = [(main, "Held-out pairs", report["model"], share)]
    for each, part in report["eval_datasets"].items():
        dataset = provenance["eval_datasets"][each]["id"]
        found.append((dataset, f"Held-out pairs: {each}", part["model"], part["left_out"]))
    measured: dict[str, Measured] = {}
    for dataset, title, model, share in found:
        if model is not None:
            values = {"accuracy": model["metrics"]["accuracy"]["value"]}
            limit = counts.get("max_length")
            notes = (
                f"{share:.1%} of the pairs left out: over {limit} tokens, or not rendered"
                if share
                else None
            )
            measured.setdefault(dataset, Measured(dataset, title, values, notes))
    if not measured:
        raise CommandError(
            f"{name} has no held-out pairs, so there are no results to write.",
            ExitCode.FAILED,
            "Evaluate its adapter: plaudit evaluate AD --dataset DS.",
        )
    return HubResults(
        name=name,
        measured=[*measured.values()],
        url=f"{url}/v1/jobs/{name}",
        date=str(report["finished_at"]),
    )


def _measured(
    evaluation: Mapping[str, Any], model: Mapping[str, Any], suites: Sequence[Any]
) -> Measured:
    found, rows = model["suite"], evaluation["dataset"]
    if found is None:
        values = {"accuracy": model["metrics"]["accuracy"]["value"]}
        return Measured(rows, "Preference pairs", values)
    suite = next(each for each in suites if each.id == found["suite"])
    if found["overall"] is None:  # other rows than the published ones: no score of the benchmark
        notes = f"not the published rows of {suite.id}"
        return Measured(rows, f"Rows shaped like {suite.title}", dict(found["metrics"]), notes)
    # Files of a provisional suite are not told apart, so none of them is named.
    hub = None if suite.is_provisional else _HUB_DATASET.match(suite.source)
    values = {"overall": found["overall"], **found["metrics"]}
    return Measured(hub[0] if hub else rows, suite.title, values, f"rule {suite.id}")
