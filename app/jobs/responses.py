"""Responses and path parameters that the routes of jobs share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from app.job_queue.job_view import etag
from app.jobs.schemas import JobRead
from app.models import Job

JOB_ID = r"^job_[0-9a-f]{32}$"
JobId = Annotated[str, Path(pattern=JOB_ID)]


def job_response(job: Job) -> Response:
    """Return the job as JSON with its ETag."""
    return json_response(JobRead.of(job).model_dump_json(), ETag=etag(job))


def json_response(text: str, **headers: str) -> Response:
    """Return text that is JSON already; FastAPI would validate and encode it again."""
    return Response(text, media_type="application/json", headers=headers)
