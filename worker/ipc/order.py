"""The work order, which the supervisor writes to ``order.json`` in a trainer's work directory.

A trainer is ``python -m worker.trainer`` with the work directory as its working directory. It reads
control lines on stdin, writes ``app.domain.progress`` messages to stdout, one JSON object per line,
and logs to stderr. It has no access to the database, the broker, the settings or their secrets.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.domain.evaluation import EvaluationOrder
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.score_batch import ScoreBatchOrder

ORDER_FILE = "order.json"
#: The action that reloads what another action packaged.
VERIFY = "verify"
#: File of a checkpoint; its ``same`` must be equal in a run that resumes from the checkpoint.
MANIFEST = "manifest.json"

#: Control lines on the trainer's stdin. End of file means that the supervisor is gone.
KEEP_ALIVE = b"k\n"  # sent after each renewal of the lease
STOP = b"s\n"  # finish the step, save a checkpoint, send ``stopped`` and exit

EXIT_DONE = 0  # the task succeeded
EXIT_FAILED = 1  # sent ``failed``
EXIT_WATCHDOG = 70  # got no keep-alive in time, or the supervisor is gone
EXIT_STOPPED = 75  # sent ``stopped``; EX_TEMPFAIL


class WorkOrder(BaseModel):
    """The task and its files. File names are relative to the work directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,31}$",
        description="The task to run: a module of worker.trainer.tasks.",
    )
    model_dir: str = Field(description="Absolute path of the base model's files.")
    model_name: str = Field(
        description="How the adapter names its base model: a repository or a catalogue id."
    )
    revision: str | None = None
    chat_template: str | None = Field(None, description="Replaces the tokenizer's chat template.")
    plan: TrainingPlan | None = None
    spec: dict[str, JsonValue] | None = Field(None, description="Copied to run.lock.json.")
    train_file: str | None = Field(None, description="Canonical JSONL of pairs.")
    eval_file: str | None = None
    eval_files: dict[str, str] = Field({}, description="Files of named eval datasets.")
    memory_bytes: int | None = Field(None, description="Memory that training may use.")
    facts: BaseModelFacts | None = Field(None, description="Input of the memory estimate.")
    token_cache: str | None = Field(None, description="Absolute path of the token cache.")
    token_cache_bytes: int = Field(0, ge=0, description="Size limit of the token cache.")
    checkpoints: list[str] = Field(
        [], description="Directories to resume from, the preferred one first."
    )
    adapter: str | None = Field(
        None, description="Directory of the adapter to merge, or of the files to verify."
    )
    is_merged: bool = Field(False, description="Whether a merged model is verified.")
    evaluation: EvaluationOrder | None = Field(None, description="Adapters to judge, and how.")
    score_batch: ScoreBatchOrder | None = Field(None, description="The adapter to score with.")
    threads: int = Field(
        1, ge=1, description="Threads of torch. Runs are byte-equal only with the same number."
    )
    processes: int = Field(1, ge=1, description="Processes that tokenise.")
    checkpoint_seconds: float = Field(
        300.0, gt=0, description="Seconds between checkpoints if the plan has no steps."
    )
    watchdog_seconds: float = Field(120.0, gt=0)
