"""Python client of Plaudit, a service that trains reward models.

>>> from plaudit import Plaudit
>>> client = Plaudit("http://127.0.0.1:8000", "plk_…")
>>> dataset = client.datasets.upload("preferences.jsonl")
>>> job = client.jobs.create(base_model="all-minilm-l6-v2", train_dataset=dataset.id)
>>> job.wait(progress=True).raise_for_status()
>>> client.adapters.download(job.adapter_id, "my-adapter")
"""

from __future__ import annotations

from plaudit._async.client import AsyncPlaudit
from plaudit._async.job import AsyncJob, AsyncListedJob
from plaudit._async.pages import AsyncItems, AsyncPage
from plaudit._model import Model
from plaudit._sync.client import Plaudit
from plaudit._sync.job import Job, ListedJob
from plaudit._sync.pages import Items, Page
from plaudit._uploads import UploadedDataset
from plaudit.errors import (
    APIError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DirectoryError,
    DownloadError,
    FieldError,
    ForbiddenError,
    ImportFailedError,
    InvalidArgumentError,
    InvalidRequestError,
    JobFailedError,
    MissingDependencyError,
    ModelCardError,
    NotFoundError,
    PlauditError,
    QuotaExceededError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    SignatureError,
    StorageFullError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnexpectedResponseError,
    UnsupportedMediaTypeError,
    WaitTimeoutError,
)
from plaudit.metrics import Metrics
from plaudit.retries import Retries, Retry
from plaudit.scoring import RewardModel, load_reward_model
from plaudit.webhook_messages import WebhookMessage, verify_webhook

__all__ = [
    "APIError",
    "AsyncItems",
    "AsyncJob",
    "AsyncListedJob",
    "AsyncPage",
    "AsyncPlaudit",
    "BadRequestError",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "DirectoryError",
    "DownloadError",
    "FieldError",
    "ForbiddenError",
    "ImportFailedError",
    "InvalidArgumentError",
    "InvalidRequestError",
    "Items",
    "Job",
    "JobFailedError",
    "ListedJob",
    "Metrics",
    "MissingDependencyError",
    "Model",
    "ModelCardError",
    "NotFoundError",
    "Page",
    "Plaudit",
    "PlauditError",
    "QuotaExceededError",
    "RateLimitedError",
    "RequestTimeoutError",
    "Retries",
    "Retry",
    "RewardModel",
    "ServerError",
    "SignatureError",
    "StorageFullError",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "UnexpectedResponseError",
    "UnsupportedMediaTypeError",
    "UploadedDataset",
    "WaitTimeoutError",
    "WebhookMessage",
    "load_reward_model",
    "verify_webhook",
]
