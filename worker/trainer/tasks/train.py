"""Run a training job from its files to a packaged adapter."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from peft import PeftModel
from pydantic import JsonValue
from transformers import TrainerState, set_seed

from app.domain.compiler import planned_steps
from app.domain.lifecycle import FailureCode, Phase
from app.domain.metric_names import BEFORE, EVAL, before
from app.domain.plan import TrainingPlan
from app.domain.progress import Packaged, PhaseChanged, Reported, Stepped
from worker.ipc.channel import Channel, finite
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import StoppedError, TrainerError
from worker.reward_model.file_digests import file_entries
from worker.reward_model.head_start import start_head
from worker.reward_model.loading import DeviceConfig, device_config_for, load_base
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.data.memory_report import report_memory
from worker.trainer.data.preparation import DataInputs, prepare_data
from worker.trainer.evaluation.metrics import worst_pairs
from worker.trainer.evaluation.scores import Scores
from worker.trainer.evaluation.training_report import training_report
from worker.trainer.export.adapter_files import write_adapter
from worker.trainer.export.trained_adapter import TrainedAdapter
from worker.trainer.inspection.base_model_files import check_base_model_unchanged
from worker.trainer.memory_budget import device_memory_bytes, gpu_name, peak_bytes
from worker.trainer.training.adapter_check import check_trainable_parameters
from worker.trainer.training.backend import choose_backend
from worker.trainer.training.checkpoints import Machine, resume_fingerprint
from worker.trainer.training.lora import add_lora
from worker.trainer.training.outcome import monitored_loss
from worker.trainer.training.resume_point import ResumePoint, find_resume_point
from worker.trainer.training.run import (
    AllScores,
    RunInputs,
    TrainingRun,
    build_run,
    check_trained,
    train,
)

ADAPTER, STATE = "adapter", "trainer_state.json"


def run(order: WorkOrder, channel: Channel) -> None:
    """Tokenise, train, evaluate and package; send ``packaged`` at the end.

    Raises:
        StoppedError: the supervisor requested a stop.
        TrainerError: with the code with which the job fails.
    """
    plan = order.plan
    if plan is None:
        raise TrainerError(FailureCode.INTERNAL, "the order to train has no plan")
    check_base_model_unchanged(order, plan.base_model.digest)
    device_config = device_config_for(plan)
    summary, metrics = _train_and_package(order, plan, device_config, channel)
    directory = Path(ADAPTER)
    channel.send(
        Packaged(
            directory=directory.name,
            files=file_entries(directory),
            metrics=metrics,
            summary=summary,
        )
    )


def _train_and_package(
    order: WorkOrder, plan: TrainingPlan, device_config: DeviceConfig, channel: Channel
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the package's summary and the run's metrics."""
    channel.send(PhaseChanged(phase=Phase.TOKENIZING))
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    data = prepare_data(DataInputs(order, plan, order.facts, tokenizer, channel))

    with channel.exiting_on_stop():  # loading a large model takes minutes
        _stop_if_wanted(channel, 0)
        model = _load_model(order, plan, device_config)
        inputs = RunInputs(
            plan=plan,
            device_config=device_config,
            device_bytes=device_memory_bytes(device_config.device, order.memory_bytes),
            train_pairs=data.train,
            eval_sets=data.eval_sets(),
            checkpoint_seconds=order.checkpoint_seconds,
        )
        run = build_run(model, tokenizer.tokenizer, inputs, channel)
        backend = choose_backend(run, channel)
        fingerprint = resume_fingerprint(plan, _machine(run, order), backend)
        run.checkpoints.resume_fingerprint = fingerprint
        resume_point = find_resume_point(order, plan, fingerprint, channel)
    _evaluate_untrained(run, resume_point, channel)
    _train(run, resume_point, channel)
    _report_peak_memory(run, order, channel)

    outcome = run.outcome()
    if note := outcome.note(monitored_loss(plan)):
        channel.send(note)
    scores, metrics = _evaluate_trained(run, tokenizer, channel)
    channel.send(PhaseChanged(phase=Phase.SAVING))
    adapter = TrainedAdapter(
        order=order,
        plan=plan,
        model=model,
        tokenizer=tokenizer,
        device_config=device_config,
        backend=backend,
        fused_kernels=fingerprint["fused_kernels"],
        scores=scores,
        metrics=metrics,
        counts=data.counts,
        outcome=outcome.document(),
    )
    return write_adapter(Path(ADAPTER), adapter, data.train, data.eval), metrics


def _load_model(order: WorkOrder, plan: TrainingPlan, device_config: DeviceConfig) -> PeftModel:
    """Return the base model with its head and the adapter, before training."""
    set_seed(plan.reward_arguments.seed)  # new head modules and LoRA weights depend on it
    base = load_base(order.model_dir, device_config, plan.head_modules)
    start_head(base, order.model_dir, plan)
    model = add_lora(base, plan)
    check_trainable_parameters(model, plan)
    return model


def _machine(run: TrainingRun, order: WorkOrder) -> Machine:
    device = run.inputs.device_config.device
    return Machine(
        device=device,
        threads=order.threads,
        gpu=gpu_name() if device == "cuda" else None,
        activation_budget_bytes=getattr(run.trainer, "memory_budget_bytes", None),
        fused_kernels=getattr(run.trainer, "used_kernels", None),
    )


def _report_peak_memory(run: TrainingRun, order: WorkOrder, channel: Channel) -> None:
    """Send the memory estimate again, with the measured peak of the run."""
    if order.facts is None:
        return
    inputs = run.inputs
    longest = max(len(ids) for pair in inputs.train_pairs for ids in (pair.chosen, pair.rejected))
    measured = peak_bytes(inputs.device_config.device)
    report_memory(inputs.plan, order.facts, longest, order.memory_bytes, channel, measured)


def _evaluate_untrained(
    run: TrainingRun, resume_point: ResumePoint | None, channel: Channel
) -> None:
    """Evaluate before the first step; a resumed run has the metrics in its checkpoint."""
    if resume_point is not None:
        manifest = resume_point.manifest
        known = manifest.metrics.items()
        run.checkpoints.untrained_metrics = {k: v for k, v in known if k.startswith(BEFORE)}
        run.progress.last_metrics = {k: v for k, v in known if k.startswith("train/")}
        run.trainer._total_train_tokens = manifest.tokens
        if manifest.activation_budget_bytes is not None and run.is_chunked:
            run.trainer.limit_budget(manifest.activation_budget_bytes)
        return
    if not run.inputs.eval_sets:
        return
    channel.send(PhaseChanged(phase=Phase.EVALUATING))
    total = _planned_steps(run)
    for metrics in run.metrics(run.evaluate()):
        untrained = finite({before(name): value for name, value in metrics.items()})
        run.checkpoints.untrained_metrics |= untrained
        channel.send(Stepped(step=0, total_steps=total, epoch=0, metrics=untrained))


def _train(run: TrainingRun, resume_point: ResumePoint | None, channel: Channel) -> None:
    _stop_if_wanted(channel, resume_point.manifest.step if resume_point else 0)
    channel.send(PhaseChanged(phase=Phase.TRAINING))
    if resume_point is None:
        train(run, resume_from=None)
    elif resume_point.manifest.is_finished and not _is_continued(run, resume_point):
        _restore_finished(run, resume_point)
    else:
        train(run, resume_from=resume_point.directory)


def _stop_if_wanted(channel: Channel, step: int) -> None:
    if channel.is_stop_wanted:
        raise StoppedError(step)


def _is_continued(run: TrainingRun, resume_point: ResumePoint) -> bool:
    """Whether the run has more steps than the run that saved the checkpoint after its last step."""
    saved = TrainerState.load_from_json(str(resume_point.directory / STATE))
    is_at_end = bool(saved.global_step >= saved.max_steps)  # it did not stop early
    return is_at_end and bool(saved.global_step < _planned_steps(run))


def _planned_steps(run: TrainingRun) -> int:
    return planned_steps(len(run.trainer.train_dataset), run.inputs.plan)


def _restore_finished(run: TrainingRun, resume_point: ResumePoint) -> None:
    """Load the final weights, because Trainer would take one more step."""
    directory, manifest = resume_point.directory, resume_point.manifest
    best = manifest.best_step if run.trainer.args.load_best_model_at_end else None
    weights = directory if best is None else Path(f"checkpoint-{best}")
    run.trainer.model.load_adapter(str(weights), "default", is_trainable=True)
    state = TrainerState.load_from_json(str(directory / STATE))
    state.max_steps = max(_planned_steps(run), state.global_step)
    run.trainer.state = state
    check_trained(run)


def _evaluate_trained(
    run: TrainingRun, tokenizer: PairTokenizer, channel: Channel
) -> tuple[Scores | None, dict[str, float]]:
    """Return the trained model's scores of the held-out pairs, and all metrics of the run."""
    metrics = {**run.checkpoints.untrained_metrics, **run.progress.last_metrics}
    if not run.inputs.eval_sets:
        _report(run, {}, tokenizer, channel)
        return None, finite(metrics)
    channel.send(PhaseChanged(phase=Phase.EVALUATING))
    scores = run.final_scores()
    trained = run.metrics(scores)
    outcome = run.outcome()
    # An earlier step has reported its metrics; those of the last step stay as they are.
    if outcome.published_step == outcome.steps:
        run.report(trained)
    channel.send(Reported(name="worst_pairs", document=_worst_pairs(scores)))
    _report(run, scores, tokenizer, channel)
    for of_dataset in trained:
        metrics |= of_dataset
    return scores.get(EVAL), finite(metrics)


def _worst_pairs(scores: AllScores) -> dict[str, JsonValue]:
    """Return the worst pairs of ``eval_dataset``, and those of each named dataset by its name."""
    worst: dict[str, JsonValue] = {group: [*worst_pairs(each)] for group, each in scores.items()}
    main = worst.pop(EVAL, [])
    named = {group.removeprefix(f"{EVAL}_"): pairs for group, pairs in worst.items()}
    return {"pairs": main, **({"eval_datasets": named} if named else {})}


def _report(
    run: TrainingRun, scores: AllScores, tokenizer: PairTokenizer, channel: Channel
) -> None:
    """Send the document for the job's report page, in addition to the other reports."""
    seed = run.inputs.plan.reward_arguments.seed
    try:
        document = training_report(scores, tokenizer.tokenizer, seed)
        message = Reported(name="full", document=document)
    except Exception:  # noqa: BLE001 - a finished training is worth more than its report
        traceback.print_exc()
        return
    channel.send(message)
