"""Training plans and work orders for tiny base models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import BaseModelFacts, DatasetRef, TrainingPlan
from app.domain.rows import replies_of
from app.domain.spec import RewardJobSpec
from app.domain.text_format import DataForm
from tests.domain.base_model_facts import CONVERSATIONS, TEXT, dataset, job
from tests.model_factories.pairs import make_pairs, write_rows
from worker.ipc.order import WorkOrder
from worker.reward_model.file_digests import model_digest
from worker.trainer.inspection.base_model import inspect_base_model


@dataclass
class TinyBase:
    """A base model's files and facts; makes orders to train on it."""

    directory: Path
    facts: BaseModelFacts
    files: Path  # directory of the pairs

    @classmethod
    def of(cls, directory: Path, files: Path) -> TinyBase:
        """Inspect the base model in ``directory``."""
        return cls(directory, facts_of(directory, digest=model_digest(directory)), files)

    def order(
        self,
        *,
        count: int = 48,
        eval_count: int = 16,
        text: bool = False,
        rows: list[dict[str, Any]] | None = None,
        named: dict[str, list[dict[str, Any]]] | None = None,
        **plan: Any,
    ) -> WorkOrder:
        """Return an order to train on generated pairs (or ``rows``).

        With ``eval_count`` 0 the order has no eval file. ``named`` are the rows of eval_datasets.
        ``plan`` goes to ``make_plan``.
        """
        rows = rows if rows is not None else make_pairs(count, text=text)
        eval_rows = make_pairs(eval_count, seed=1, text=text)
        self.files.mkdir(exist_ok=True)
        number = len(list(self.files.iterdir()))
        train_file = write_rows(self.files / f"{number}.jsonl", rows)
        eval_file = write_rows(self.files / f"{number + 1}.jsonl", eval_rows)
        eval_files = {
            name: str(write_rows(self.files / f"{number + 1}-{name}.jsonl", each))
            for name, each in (named or {}).items()
        }
        return WorkOrder(
            action="train",
            model_dir=str(self.directory),
            model_name="plaudit/tiny",
            plan=make_plan(self.facts, rows, eval_rows=eval_rows, named=named, **plan),
            spec={"base_model": "tiny"},
            train_file=str(train_file),
            eval_file=str(eval_file) if eval_count else None,
            eval_files=eval_files,
        )


def with_plan(order: WorkOrder, **changes: Any) -> WorkOrder:
    """Return the order with another plan, which the compiler would not make; merge mappings."""
    assert order.plan
    plan = order.plan.model_dump(mode="json")
    for name, value in changes.items():
        plan[name] = plan[name] | value if isinstance(value, dict) else value
    return order.model_copy(update={"plan": TrainingPlan.model_validate(plan)})


def facts_of(
    directory: Path, *, chat_template: str | None = None, digest: str = "0" * 64
) -> BaseModelFacts:
    """Inspect a base model on disk."""
    return inspect_base_model(directory, revision=None, chat_template=chat_template, digest=digest)


def make_plan(
    facts: BaseModelFacts,
    rows: list[dict[str, Any]],
    *,
    eval_rows: list[dict[str, Any]] | None = None,
    named: dict[str, list[dict[str, Any]]] | None = None,
    training: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
    form: DataForm | None = None,
    **spec: Any,
) -> TrainingPlan:
    """Compile a plan as the service does; texts are tokenised as they are unless ``form`` says."""
    train = DatasetRef(id="ds_" + "a" * 32, sha256="a" * 64, pair_count=len(rows))
    evaluation = None
    if eval_rows:
        evaluation = DatasetRef(id="ds_" + "e" * 32, sha256="e" * 64, pair_count=len(eval_rows))
    refs = {
        name: DatasetRef(id=f"ds_{i:032x}", sha256=f"{i:064x}", pair_count=len(each))
        for i, (name, each) in enumerate((named or {}).items(), 1)
    }
    job = RewardJobSpec.model_validate(
        {
            "base_model": "tiny",
            "train_dataset": train.id,
            "eval_dataset": evaluation and evaluation.id,
            "eval_datasets": {name: ref.id for name, ref in refs.items()},
            "lora": {"r": 4, "alpha": 8, **(lora or {})},
            "training": {"learning_rate": 0.01, **(training or {})},
            "resources": {"gpus": 0},
            **spec,
        }
    )
    is_text = isinstance(replies_of(rows[0])[0], str)
    form = form or (TEXT if is_text else CONVERSATIONS)
    return compile_plan(job, "local:tiny", facts, JobData(train, evaluation, form, refs))


def make_text_plan(facts: BaseModelFacts, **spec: Any) -> TrainingPlan:
    """Compile a plan for plain text pairs from a minimal spec with changes."""
    return compile_plan(job(**spec), "hub", facts, JobData(dataset(), None, TEXT))
