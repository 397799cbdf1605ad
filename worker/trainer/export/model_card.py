"""The model card of an adapter: metadata for the Hub, evaluation results, a scoring program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from app.domain.metric_names import EVAL, eval_group
from app.domain.plan import TrainingPlan
from worker.trainer.export.card_results import named_counts, results
from worker.trainer.export.scoring_program import scoring_program

#: The Hub's name for what a reward model does.
TASK = "text-classification"
_SERVICE = """\
The service that trained it also scores with it, for RL trainers too:

```sh
curl "$PLAUDIT_URL/v1/score" -H "Authorization: Bearer $PLAUDIT_API_KEY" --json '{
  "model": "ad_…", "groups": [{"prompt": "Hello", "responses": ["Hello! How can I help?", "No."]}]
}'
```
"""


def model_card(
    summary: Mapping[str, Any],
    plan: TrainingPlan,
    metrics: Mapping[str, float],
    lock: Mapping[str, Any],
) -> str:
    """Return the text of README.md.

    Args:
        summary: the content of reward_model.json.
        lock: the content of run.lock.json; the card shows its "pairs" and "training".
        metrics: ``eval/…`` after training and ``eval_before/…`` before it, if pairs were held out;
            ``eval_maths/…`` and ``eval_before_maths/…`` for a dataset named maths.

    Raises:
        ValueError: the metadata would not be read as a mapping.
    """
    counts = lock["pairs"]
    body = "\n".join(
        [
            f"# Reward model on {summary['base_model']}",
            "",
            f"A LoRA adapter (rank {plan.lora['r']}) with a one-number reward head "
            f"({', '.join(plan.head_modules)}) for {plan.architecture}, trained on "
            f"{counts['train']['used']} preference pairs with the Bradley–Terry loss."
            + _head_start(summary)
            + _end(lock["training"]),
            "",
            *_data(plan, counts),
            "## Held-out pairs",
            "",
            *results(metrics, counts),
            "",
            "`accuracy_low` and `accuracy_high` bound a 95 % bootstrap interval; ties count half. "
            "`length_baseline` is the accuracy of always choosing the longer reply.",
            "",
            "## Scoring",
            "",
            "Needs peft ≥ 0.21 and transformers ≥ 5.23: older versions load a random head.",
            "",
            scoring_program(summary),
            "Render texts exactly as the program does. `probes.jsonl` holds rendered texts with "
            "the scores that they must get, `reward_model.json` the settings for scoring, and "
            "`run.lock.json` the inputs and versions of the training run.",
            "",
            _SERVICE,
        ]
    )
    # Parsing the whole card checks the metadata as the Hub's client reads it.
    return str(ModelCard(f"---\n{_metadata(summary, plan, metrics).to_yaml()}\n---\n\n{body}"))


def _metadata(
    summary: Mapping[str, Any], plan: TrainingPlan, metrics: Mapping[str, float]
) -> ModelCardData:
    """Return the front matter; a base model is named only if it is one of the Hub's."""
    tags = ["transformers", "peft", "lora", "trl", "reward-trainer", "generated_from_trainer"]
    tags += ["reward-model", "plaudit"]
    results = _eval_results(plan, metrics)
    base = summary["base_model"] if summary["revision"] is not None else None
    if base is not None:
        tags.append(f"base_model:adapter:{base}")  # as PEFT's own cards have it
    return ModelCardData(
        base_model=base,
        base_model_relation=base and "adapter",
        library_name="peft",
        pipeline_tag=TASK,
        tags=tags,
        model_name=f"Reward model on {summary['base_model']}" if results else None,
        eval_results=results or None,
    )


def _eval_results(plan: TrainingPlan, metrics: Mapping[str, float]) -> list[EvalResult]:
    """Return the results for the Hub's ``model-index``; none without held-out pairs."""
    main = plan.data.eval or plan.data.train
    name = "Held-out pairs" if plan.data.eval else "Held-out pairs of the training"
    datasets = {EVAL: (main, name)}
    for each, data in plan.data.eval_datasets.items():
        datasets[eval_group(each)] = (data, f"Held-out pairs: {each}")
    return [
        EvalResult(
            task_type=TASK,
            task_name="Preference ranking",
            dataset_type=data.id,
            dataset_name=name,
            metric_type="accuracy",
            metric_name="Accuracy, ties half",
            metric_value=metrics[f"{group}/accuracy"],
        )
        for group, (data, name) in datasets.items()
        if f"{group}/accuracy" in metrics
    ]


def _head_start(summary: Mapping[str, Any]) -> str:
    if summary["head_start"] != "base_model":
        return ""
    return f" The head started from the base model's {', '.join(summary['head_tensors'].values())}."


def _end(training: Mapping[str, Any]) -> str:
    """Return which step the model is from, if it is not the last step of the plan."""
    if training["published_step"] == training["planned_steps"]:
        return ""
    end = "stopped early" if training["stopped_early"] else "ended"
    return (
        f" Training {end} after step {training['steps']} of {training['planned_steps']}; this is "
        f"the model of step {training['published_step']}."
    )


def _data(plan: TrainingPlan, counts: Mapping[str, Any]) -> list[str]:
    """Return the lines about used, omitted and suspicious pairs."""
    rows = [
        f"| {name} | {part['uploaded']} | {part['dropped']['unrenderable']} | "
        f"{part['dropped']['overlong']} | {part['dropped']['not_drawn']} | {part['truncated']} | "
        f"{part.get('held_out', 0)} | {part['used']} |"
        for name, part in (
            ("training", counts["train"]),
            ("evaluation", counts["eval"]),
            *((f"evaluation ({name})", part) for name, part in named_counts(counts)),
        )
        if part and "uploaded" in part
    ]
    return [
        "## Data",
        "",
        "| dataset | uploaded | not rendered | too long | not drawn | cut | held out | used |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *rows,
        "",
        f"Pairs of more than {counts['max_length']} tokens are too long.",
        "",
        *(f"- {_escaped(each['message'])}" for each in plan.data_warnings()),
        "",
    ]


def _escaped(text: str) -> str:
    """Escape Markdown in a text from an upload, such as the name of a column."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", " ".join(text.split()))
