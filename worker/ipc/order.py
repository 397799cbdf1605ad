"""The work order that a supervisor lays in a trainer's work directory as ``order.json``.

A trainer is ``python -m worker.trainer`` with the work directory as its working directory. It
reads control lines on stdin, says ``app.domain.progress`` messages on stdout, one JSON object a
line, and logs on stderr. It knows no database, no broker, no settings and none of their secrets.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.domain.plan import BaseModelFacts, TrainingPlan

ORDER_FILE = "order.json"
#: Of a checkpoint; its ``same`` is what must not differ in a run that goes on from there.
MANIFEST = "manifest.json"

#: Control lines on the trainer's stdin. End of file means that the supervisor is gone.
KEEP_ALIVE = b"k\n"  # sent after each heartbeat that the database accepted
STOP = b"s\n"  # finish the step, save a checkpoint, say ``stopped`` and exit

EXIT_DONE = 0  # said ``packaged`` or ``inspected``
EXIT_FAILED = 1  # said ``failed``
EXIT_WATCHDOG = 70  # heard no keep-alive in time, or its supervisor is gone
EXIT_STOPPED = 75  # said ``stopped``; EX_TEMPFAIL


class WorkOrder(BaseModel):
    """What to do and with which files; names are relative to the work directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,31}$",
        description="The task to run: a module of worker.trainer.tasks.",
    )
    model_dir: str = Field(description="Absolute path of the base model's files.")
    model_name: str = Field(description="What the adapter calls its base: a repo or catalogue id.")
    revision: str | None = None
    chat_template: str | None = Field(None, description="The catalogue's, over the tokenizer's.")
    plan: TrainingPlan | None = None
    spec: dict[str, JsonValue] | None = Field(None, description="For run.lock.json.")
    train_file: str | None = Field(None, description="Canonical JSONL of pairs.")
    eval_file: str | None = None
    memory_bytes: int | None = Field(None, description="What training may take of this machine.")
    facts: BaseModelFacts | None = Field(None, description="To estimate the memory from.")
    token_cache: str | None = Field(None, description="Absolute path of this worker's token ids.")
    token_cache_bytes: int = Field(0, ge=0, description="What the token ids may take there.")
    checkpoints: list[str] = Field([], description="Directories to resume from, best one first.")
    adapter: str | None = Field(None, description="Directory of the adapter to merge.")
    threads: int = Field(1, ge=1, description="Of torch; part of what makes runs byte-equal.")
    checkpoint_seconds: float = Field(300.0, gt=0, description="When the plan gives no steps.")
    watchdog_seconds: float = Field(120.0, gt=0)
