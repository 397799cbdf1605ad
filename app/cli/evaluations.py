"""``plaudit evaluate``, ``compare`` and ``report``: judge adapters from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import (
    JsonOption,
    notes,
    plain,
    print_fields,
    print_json,
    print_table,
    write_file,
)
from app.cli.short_ids import full_id
from app.domain.evaluation import UNTRAINED
from plaudit import Plaudit
from plaudit.models import ComparisonRead, EvaluationRead

_ENDED = {"failed": ExitCode.FAILED, "cancelled": ExitCode.CANCELLED}

EvaluationId = Annotated[str, typer.Argument(help="Id (eval_…) of an evaluation.")]

AdapterIds = Annotated[
    list[str],
    typer.Argument(
        help="Ids (ad_…) of adapters of one base model; base:untrained is always evaluated too."
    ),
]


def evaluate(
    adapter_ids: AdapterIds,
    dataset: Annotated[
        str, typer.Option(help="Id (ds_…) of the rows to score, or the sha256 of these rows.")
    ],
    suite: Annotated[
        str | None, typer.Option(help="The benchmark that the rows are from: reward-bench-2@1 …")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Display name.")] = None,
    are_probes_left_out: Annotated[
        bool, typer.Option("--no-probes", help="Do not probe for reward hacking.")
    ] = False,
    are_texts_cut: Annotated[
        bool,
        typer.Option("--truncate", help="Cut long replies at the end; default: as in training."),
    ] = False,
    is_not_awaited: Annotated[
        bool, typer.Option("--no-wait", help="Print the id and do not wait for the result.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Evaluate adapters on a dataset: accuracy, calibration, length, probes, benchmarks."""
    with connect() as client:
        spec: dict[str, Any] = {
            "adapters": [_model(client, each) for each in adapter_ids],
            "dataset": _dataset(client, dataset),
            "suite": suite,
            "name": name,
        }
        if are_texts_cut:
            spec["overlong"] = "truncate"
        if are_probes_left_out:
            spec["probes"] = []
        found = client.evaluations.create(**spec)
        notes.print(plain(f"{found.id} is queued.", "dim"))
        if not is_not_awaited:
            found = client.evaluations.wait(found.id)
    if as_json:
        print_json(found.model_dump(mode="json"))
    elif found.result is not None:
        _print_result(found, found.result)
    else:
        typer.echo(found.id)
    if failure := found.failure:
        notes.print(plain(f"{failure.code}: {failure.detail}", "bold red"))
        notes.print(plain(failure.hint))
    raise typer.Exit(_ENDED.get(found.status, ExitCode.SUCCEEDED))


def compare(
    a: EvaluationId,
    b: EvaluationId,
    a_adapter: Annotated[str | None, typer.Option(help="Default: the first adapter of A.")] = None,
    b_adapter: Annotated[str | None, typer.Option(help="Default: the first adapter of B.")] = None,
    page: Annotated[
        Path | None, typer.Option("--html", dir_okay=False, help="Also write an HTML page.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the rows that both evaluations scored."""
    with connect() as client:
        a, b = _evaluation_id(a), _evaluation_id(b)
        a_adapter, b_adapter = (each and _model(client, each) for each in (a_adapter, b_adapter))
        found = client.comparisons.get(a, b, a_adapter=a_adapter, b_adapter=b_adapter)
        if page is not None:
            html = client.comparisons.report_page(a, b, a_adapter=a_adapter, b_adapter=b_adapter)
            write_file(page, html)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_comparison(found)


def report(
    name: Annotated[str, typer.Argument(help="Id of a job (job_…) or an evaluation (eval_…).")],
    page: Annotated[Path | None, typer.Argument(dir_okay=False, help="The file to write.")] = None,
    hub: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="A model repository: also write the results to its .eval_results, and to the "
            "model-index of its README.md.",
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="With --hub: the adapter of the repository, if several were judged."),
    ] = None,
) -> None:
    """Write the report of a job or an evaluation as one self-contained HTML page."""
    with connect() as client:
        if name.startswith("eval_"):
            found = _evaluation_id(name)
            html = client.evaluations.report_page(found)
        else:
            found = full_id(client, "job", name)
            html = client.jobs.report_page(found)
        if hub is not None:
            _write_results(client, found, hub, adapter)
    target = page or Path(f"{found}.html")
    write_file(target, html)
    typer.echo(target)


def _write_results(client: Plaudit, name: str, repository: Path, adapter: str | None) -> None:
    # The library of the hub takes as long to import as all the rest of a client command.
    from app.cli import hub_results

    if name.startswith("eval_"):
        evaluation = client.evaluations.get(name).model_dump(mode="json")
        wanted = adapter and full_id(client, "ad", adapter)
        results = hub_results.of_evaluation(
            evaluation, wanted, list(client.suites.list()), client.url
        )
    else:
        report = client.jobs.full_report(name).model_dump(mode="json")
        results = hub_results.of_job(report, client.url)
    for path in results.write(repository):
        notes.print(plain(str(path), "dim"))


def _dataset(client: Plaudit, text: str) -> Any:
    """Return a dataset as a spec names it: by its id, or by the digest of its rows."""
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return {"sha256": text}
    return full_id(client, "ds", text)


def _model(client: Plaudit, text: str) -> str:
    """Return the name of a model of an evaluation: the id of an adapter, or ``base:untrained``."""
    return text if text == UNTRAINED else full_id(client, "ad", text)


def _evaluation_id(text: str) -> str:
    if not re.fullmatch(r"eval_[0-9a-f]{32}", text):
        raise CommandError(
            f"{text} is not the id of an evaluation.", ExitCode.USAGE, "Ids look like eval_01a2…"
        )
    return text


def _print_result(found: EvaluationRead, result: Mapping[str, Any]) -> None:
    typer.echo(found.id)
    rows: list[tuple[object, ...]] = []
    for model in result["models"]:
        metrics, suite = model["metrics"], model["suite"] or {}
        suspicious = [probe["probe"] for probe in model["probes"] if probe["is_suspicious"]]
        rows.append(
            (
                model["adapter"],
                _interval(metrics["accuracy"]),
                _percent((metrics["length"]["balanced"] or {}).get("value")),
                f"{metrics['calibration']['ece']:.3f}",
                _percent(suite.get("overall")),
                ", ".join(suspicious) or None,
            )
        )
    for name, baseline in result["baselines"].items():
        suite = baseline["suite"] or {}
        overall = _percent(suite.get("overall"))
        rows.append((name, _interval(baseline["accuracy"]), None, None, overall, None))
    columns = ("model", "accuracy", "length-balanced", "ECE", "suite", "suspicious probes")
    print_table(columns, rows)
    for model in result["models"]:
        for caution in cautions(model, result["rows"]):
            notes.print(plain(f"{model['adapter']}: {caution}", "dim"))
    if found.suite:
        _print_suite(found.suite, result["models"])


def cautions(model: Mapping[str, Any], rows: int) -> list[str]:
    """Return what makes the figures of a model mean less: rows left out, cut, or trained on."""
    left_out = sum(found["rows"] for found in model["left_out"].values())
    cut, overlap = model["truncated"]["rows"], model["training_overlap"]
    found = []
    if left_out:
        reasons = ", ".join(model["left_out"])
        found.append(f"{left_out} of {rows} rows are left out ({reasons})")
    if cut:
        found.append(f"{cut} of {rows} rows are cut at max_length")
    if overlap and overlap["rows"]:
        found.append(f"the prompts of {overlap['rows']} of {rows} rows are in its training data")
    return found


def _print_suite(name: str, models: list[dict[str, Any]]) -> None:
    """Print the figures of a benchmark by subset, which exist without an overall figure too."""
    figures = [model["suite"]["metrics"] for model in models]
    print_table(
        (name, *(model["adapter"] for model in models)),
        (
            (subset, *(_percent(each.get(subset)) for each in figures))
            for subset in dict.fromkeys(subset for each in figures for subset in each)
        ),
    )
    for model in models:
        if problems := model["suite"]["problems"]:
            more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
            notes.print(plain(f"{model['adapter']} has no overall: {problems[0]}{more}", "dim"))


def _print_comparison(found: ComparisonRead) -> None:
    difference = found.difference
    print_fields(
        (
            ("a", f"{found.a.adapter}, accuracy {_percent(found.accuracy_a)}"),
            ("b", f"{found.b.adapter}, accuracy {_percent(found.accuracy_b)}"),
            ("difference", _interval(difference.model_dump())),
            ("only a right", str(found.disagreements.a_better)),
            ("only b right", str(found.disagreements.b_better)),
            ("McNemar p", f"{found.mcnemar.p:.3g}"),
            ("pairs", found.pairs),
            ("uses of these rows", found.dataset_uses),
        )
    )
    if found.slices:
        print_table(
            ("slice", "pairs", "a", "b", "p (Holm)"),
            (
                (
                    s.slice,
                    s.pairs,
                    _percent(s.accuracy_a),
                    _percent(s.accuracy_b),
                    f"{s.p_holm:.3g}",
                )
                for s in found.slices
            ),
        )


def _interval(found: Mapping[str, Any]) -> str:
    value = _percent(found["value"])
    if not found["interval"]:
        return f"{value}"
    low, high = map(_percent, found["interval"])
    return f"{value} ({low} to {high})"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
