"""All tables. Times are epoch milliseconds of the database's clock."""

from app.core.database import Base
from app.models.access import ApiKey, AuditRecord
from app.models.evaluations import Evaluation
from app.models.jobs import (
    Checkpoint,
    Job,
    JobEvalDataset,
    JobEvent,
    JobLog,
    JobMetric,
    JobReport,
    Worker,
)
from app.models.scoring import Scorer
from app.models.storage import Adapter, BaseModelRecord, Blob, BlobChunk, Dataset, StoredFile
from app.models.uploads import DatasetUpload, DatasetUploadPart
from app.models.usage import UsageDay
from app.models.webhooks import Webhook, WebhookDelivery

__all__ = [
    "Adapter",
    "ApiKey",
    "AuditRecord",
    "Base",
    "BaseModelRecord",
    "Blob",
    "BlobChunk",
    "Checkpoint",
    "Dataset",
    "DatasetUpload",
    "DatasetUploadPart",
    "Evaluation",
    "Job",
    "JobEvalDataset",
    "JobEvent",
    "JobLog",
    "JobMetric",
    "JobReport",
    "Scorer",
    "StoredFile",
    "UsageDay",
    "Webhook",
    "WebhookDelivery",
    "Worker",
]
