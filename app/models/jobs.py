"""Tables of jobs, their progress, and workers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Text,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.database import Base, now_ms


class Job(Base):
    """A job with its lease. docs/operations.md explains the states."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name="status",
        ),
        CheckConstraint("desired IN ('run', 'pause', 'cancel')", name="desired"),
        CheckConstraint("(status = 'running') = (lease_owner IS NOT NULL)", name="lease"),
        Index(
            "ix_jobs_claim",
            "queue",
            text("priority DESC"),
            "created_at",
            "id",
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "ix_jobs_running",
            "id",
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
        Index("ix_jobs_list", "tenant_id", "kind", "id"),
        # Keeps the quota check of a submission fast, however many finished jobs exist.
        Index(
            "ix_jobs_waiting",
            "tenant_id",
            "kind",
            sqlite_where=text("status IN ('queued', 'paused')"),
            postgresql_where=text("status IN ('queued', 'paused')"),
        ),
        Index(
            "ix_jobs_pace",
            "base_model",
            "id",
            sqlite_where=text("status = 'succeeded'"),
            postgresql_where=text("status = 'succeeded'"),
        ),
        Index(
            "ix_jobs_inspections",
            "id",
            sqlite_where=text("kind = 'preflight'"),
            postgresql_where=text("kind = 'preflight'"),
        ),
        Index(
            "ux_jobs_idempotency",
            "tenant_id",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # Room for heap-only tuple updates: heartbeats change no indexed column, so
        # lease_expires_at, event_seq and version must not get an index.
        {"postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16), default="train")
    queue: Mapped[str] = mapped_column(String(64))
    name: Mapped[str | None] = mapped_column(String(128))
    # SQLAlchemy's declarative base reserves the attribute name "metadata".
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSON, default=dict)
    notes: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(default=0)
    # Whether no CPU can run the job.
    needs_gpu: Mapped[bool] = mapped_column(default=False, server_default=false())
    status: Mapped[str] = mapped_column(String(16), default="queued")
    desired: Mapped[str] = mapped_column(String(8), default="run")
    # Whether a cancelled job keeps its checkpoint.
    keep_checkpoint: Mapped[bool] = mapped_column(default=False)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    spec_sha256: Mapped[str] = mapped_column(String(64))
    plan: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    base_model: Mapped[str] = mapped_column(String(64))
    train_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    eval_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    parent_job_id: Mapped[str | None] = mapped_column(String(40))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))

    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    run_after: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    attempt_started_at: Mapped[int | None] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
    # Runtime of the ended attempts. The current attempt counts from attempt_started_at.
    runtime_ms: Mapped[int] = mapped_column(BigInteger, default=0)

    attempt: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[int | None] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    preemptions: Mapped[int] = mapped_column(default=0)
    stalls: Mapped[int] = mapped_column(default=0)
    avoid_host: Mapped[str | None] = mapped_column(String(128))
    event_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    version: Mapped[int] = mapped_column(BigInteger, default=1)

    phase: Mapped[str | None] = mapped_column(String(16))
    step: Mapped[int | None] = mapped_column(BigInteger)
    total_steps: Mapped[int | None] = mapped_column(BigInteger)
    epoch: Mapped[float | None]
    # Number and time of the first step of this attempt, from which the step rate is computed.
    rate_step: Mapped[int | None] = mapped_column(BigInteger)
    rate_at: Mapped[int | None] = mapped_column(BigInteger)
    progressed_at: Mapped[int | None] = mapped_column(BigInteger)
    # While rows are tokenised: done, total, seconds_left.
    rows: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    warnings: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    failure_code: Mapped[str | None] = mapped_column(String(64))
    failure_detail: Mapped[str | None] = mapped_column(Text)
    failure_step: Mapped[int | None] = mapped_column(BigInteger)
    checkpoint_id: Mapped[str | None] = mapped_column(String(40))
    adapter_id: Mapped[str | None] = mapped_column(String(40))

    eval_datasets: Mapped[list[JobEvalDataset]] = relationship(passive_deletes="all")


class JobEvalDataset(Base):
    """A named evaluation dataset of a job; the row keeps the dataset from being deleted."""

    __tablename__ = "job_eval_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)


class JobEvent(Base):
    """An event of a job; ``seq`` counts them without gaps."""

    __tablename__ = "job_events"
    __table_args__ = (
        Index(
            "ix_job_events_lost",
            "at",
            sqlite_where=text("type = 'worker_lost'"),
            postgresql_where=text("type = 'worker_lost'"),
        ),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    type: Mapped[str] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)


class JobMetric(Base):
    """One metric at one step. A step that is repeated after a resume replaces the earlier value."""

    __tablename__ = "job_metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[float]
    attempt: Mapped[int]


class JobLog(Base):
    """A part of the trainer's output."""

    __tablename__ = "job_logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    text: Mapped[str] = mapped_column(Text)


class JobReport(Base):
    """A document that a run or an inspection produced, such as a dataset report."""

    __tablename__ = "job_reports"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    attempt: Mapped[int]
    document: Mapped[dict[str, Any]] = mapped_column(JSON)


class Checkpoint(Base):
    """A complete checkpoint. ``Job.checkpoint_id`` names the one that a resume starts from."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]
    step: Mapped[int] = mapped_column(BigInteger)
    is_best: Mapped[bool] = mapped_column(default=False)
    bytes: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())


class Worker(Base):
    """A worker process, its devices and its versions."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(160), primary_key=True)
    host: Mapped[str] = mapped_column(String(128))
    queue: Mapped[str] = mapped_column(String(64))
    slots: Mapped[int]
    busy: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(16), default="ready")
    devices: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    versions: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    # Results of the checks that run when a worker starts; None until they have ended.
    doctor: Mapped[list[dict[str, str]] | None] = mapped_column(JSON)
    started_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
    seen_at: Mapped[int] = mapped_column(BigInteger, default=now_ms())
