"""A training job from its files to a verified adapter."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState, set_seed

from app.domain.compiler import planned_steps
from app.domain.lifecycle import FailureCode, Phase
from app.domain.plan import TrainingPlan
from app.domain.progress import Noted, Packaged, PhaseChanged, Reported, Stepped
from app.domain.warnings import WarningCode
from worker.ipc.channel import Channel, finite
from worker.ipc.order import WorkOrder
from worker.reward_model.errors import Stopped, TrainerError
from worker.reward_model.file_digests import check_unchanged, file_entries
from worker.reward_model.loading import (
    DeviceConfig,
    device_config_for,
    load_base,
    memory_bytes,
    wrap,
)
from worker.reward_model.pair_tokenizer import PairTokenizer
from worker.trainer.export import adapter_files
from worker.trainer.export.reload_check import verified_certificate
from worker.trainer.tasks.prepare_data import prepare_data
from worker.trainer.training import checkpoints
from worker.trainer.training.adapter_check import check_wrapped
from worker.trainer.training.evaluation import Scores, worst_pairs
from worker.trainer.training.run import Run, build_run, check_trained, choose_engine, train

ADAPTER = "adapter"


def run(order: WorkOrder, channel: Channel) -> None:
    """Tokenise, train, evaluate, package and verify; says ``packaged`` at the end.

    Raises:
        Stopped: the supervisor asked for it.
        TrainerFailure: with the code that the job fails with.
    """
    plan = order.plan
    if plan is None:
        raise TrainerError(FailureCode.INTERNAL, "an order to train needs a plan")
    check_unchanged(order, plan.base_model.digest)
    numerics = device_config_for(plan)
    summary, metrics = _train_and_package(order, plan, numerics, channel)
    channel.say(PhaseChanged(phase=Phase.VERIFYING))
    _free_device()
    directory = Path(ADAPTER)
    certificate = verified_certificate(
        directory, Path(order.model_dir), device=numerics.device, threads=order.threads
    )
    channel.say(
        Packaged(
            directory=directory.name,
            files=file_entries(directory),
            metrics=metrics,
            certificate=certificate,
            summary=summary,
        )
    )


def _train_and_package(
    order: WorkOrder, plan: TrainingPlan, numerics: DeviceConfig, channel: Channel
) -> tuple[dict[str, Any], dict[str, float]]:
    """The package's summary and the run's metrics; the model is let go of."""
    channel.say(PhaseChanged(phase=Phase.TOKENIZING))
    tokenizer = PairTokenizer(order.model_dir, plan.tokenization, plan.data.format)
    train_pairs, eval_pairs = prepare_data(order, plan, order.facts, tokenizer, channel)

    set_seed(int(str(plan.reward["seed"])))  # the head and LoRA are drawn from it
    model = wrap(load_base(order.model_dir, numerics, plan.head_modules), plan)
    check_wrapped(model, plan)
    run = build_run(
        model,
        tokenizer.tokenizer,
        plan,
        numerics,
        train_pairs,
        eval_pairs,
        channel,
        order.checkpoint_seconds,
        memory_bytes(numerics.device, order.memory_bytes),
    )
    engine = choose_engine(run, channel)
    same = checkpoints.circumstances(
        plan, device=numerics.device, threads=order.threads, engine=engine
    )
    run.checkpointer.same = same
    resume_from, manifest = _checkpoint(order, same, channel)
    _evaluate_untrained(run, manifest, channel)
    _train(run, resume_from, manifest, channel)

    scores, metrics = _evaluate_trained(run, channel)
    channel.say(PhaseChanged(phase=Phase.SAVING))
    assert order.train_file is not None
    held_out, trained_on = adapter_files.choose_probes(eval_pairs, train_pairs)
    training = "training", order.train_file
    aside = ("eval", order.eval_file) if order.eval_file else training
    probes = [
        probe
        for chosen, file in ((held_out, aside), (trained_on, training))
        for probe in adapter_files.make_probes(chosen, *file, model, tokenizer, numerics)
    ]
    summary = adapter_files.package(
        Path(ADAPTER), model, tokenizer, order, plan, numerics, scores, probes, metrics, engine
    )
    return summary, metrics


def _checkpoint(
    order: WorkOrder, same: dict[str, Any], channel: Channel
) -> tuple[Path | None, checkpoints.Manifest | None]:
    """The first checkpoint that can be trusted, to go on from."""
    for directory in map(Path, order.checkpoints):
        try:
            manifest = checkpoints.verify(directory, same)
        except checkpoints.CheckpointRefusedError as refused:
            message = f"a checkpoint cannot be used, the one before is or none: {refused}"
            channel.say(
                Noted(code=WarningCode.CHECKPOINT_REFUSED, message=message[:2000], is_warning=True)
            )
            continue
        checkpoints.restore_best(directory, manifest, Path())
        return directory, manifest
    return None, None


def _evaluate_untrained(run: Run, manifest: checkpoints.Manifest | None, channel: Channel) -> None:
    """Before the first step; a resumed run remembers."""
    if manifest is not None:
        groups = manifest.metrics.items()
        run.checkpointer.before = {k: v for k, v in groups if k.startswith("eval_before/")}
        run.reporter.last = {k: v for k, v in groups if k.startswith("train/")}
        run.trainer._total_train_tokens = manifest.tokens
        return
    if not run.eval_pairs:
        return
    channel.say(PhaseChanged(phase=Phase.EVALUATING))
    before = {f"eval_before/{k}": value for k, value in run.metrics(run.evaluate()).items()}
    run.checkpointer.before = finite(before)
    channel.say(
        Stepped(
            step=0,
            total_steps=planned_steps(len(run.trainer.train_dataset), run.plan),
            epoch=0,
            metrics=finite(before),
        )
    )


def _train(
    run: Run,
    resume_from: Path | None,
    manifest: checkpoints.Manifest | None,
    channel: Channel,
) -> None:
    step = manifest.step if manifest else 0
    _stop_if_wanted(channel, step)
    channel.say(PhaseChanged(phase=Phase.TRAINING))
    if manifest is None or not manifest.is_finished:
        train(run, resume_from)
        return
    # It ended with this checkpoint: Trainer would take one more step.
    assert resume_from is not None
    best = manifest.best_step if run.trainer.args.load_best_model_at_end else None
    weights = resume_from if best is None else Path(f"checkpoint-{best}")
    run.trainer.model.load_adapter(str(weights), "default", is_trainable=True)
    state = TrainerState.load_from_json(str(resume_from / "trainer_state.json"))
    run.trainer.state = state
    check_trained(run)


def _evaluate_trained(run: Run, channel: Channel) -> tuple[Scores | None, dict[str, float]]:
    metrics = {**run.checkpointer.before, **run.reporter.last}
    if not run.eval_pairs:
        return None, finite(metrics)
    channel.say(PhaseChanged(phase=Phase.EVALUATING))
    scores = run.final_scores()
    after = {f"eval/{name}": value for name, value in run.metrics(scores).items()}
    run.reporter.say(run.trainer.state, after)
    channel.say(Reported(name="worst_pairs", document={"pairs": list(worst_pairs(scores))}))
    return scores, finite({**metrics, **after})


def _free_device() -> None:
    """Give the GPU's memory to the process that verifies."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _stop_if_wanted(channel: Channel, step: int) -> None:
    if channel.is_stop_wanted:
        raise Stopped(step)
