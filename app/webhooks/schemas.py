"""What the API says about webhooks, and what a message looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.models import Webhook, WebhookDelivery
from app.web.pagination import Timestamp

EventType = Literal["job.running", "job.paused", "job.succeeded", "job.failed", "job.cancelled"]


class WebhookCreate(BaseModel):
    """An address to be told about jobs."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] = Field(
        description="https, port 443, on a host that the operator allows.",
        examples=["https://hooks.example.com/plaudit"],
    )
    events: set[EventType] = Field(
        default_factory=lambda: set(get_args(EventType)),
        min_length=1,
        description="Job statuses to be told of; all, unless said.",
        examples=[["job.succeeded", "job.failed"]],
    )


class WebhookRead(BaseModel):
    """A webhook, without its secret."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[EventType]
    created_at: Timestamp
    failing_since: Timestamp | None = Field(description="The first failure since it last answered.")
    disabled_at: Timestamp | None = Field(
        description="It failed too long; a test that it answers enables it again."
    )
    old_secret_expires_at: Timestamp | None = Field(
        description="Until then messages are signed with the secret before as well."
    )

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """From its row."""
        return cls.model_validate(webhook, from_attributes=True)


class WebhookSecret(WebhookRead):
    """A webhook and its secret."""

    secret: str = Field(
        description="`whsec_…`, shown this once: verifies messages (Standard Webhooks)."
    )

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """From its row."""
        return cls.model_validate(webhook, from_attributes=True)


class DeliveryRead(BaseModel):
    """A message to a webhook and how its last attempt went."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    id: str = Field(description="The message's `webhook-id` header, the same at every attempt.")
    type: EventType | Literal["webhook.test"]
    data: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: Timestamp | None = Field(description="Of a pending message.")
    last_attempt_at: Timestamp | None
    response_status: int | None
    response_body: str | None = Field(description="Its first 1024 bytes.")
    error: str | None = Field(description="Why the last attempt failed.")
    created_at: Timestamp

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> Self:
        """From its row."""
        is_pending = delivery.status == "pending"
        return cls(
            id=delivery.event_id,
            type=delivery.type,
            data=delivery.data,
            status=delivery.status,
            attempts=delivery.attempts,
            next_attempt_at=delivery.next_attempt_at if is_pending else None,
            last_attempt_at=delivery.last_attempt_at,
            response_status=delivery.response_status,
            response_body=delivery.response_body,
            error=delivery.error,
            created_at=delivery.created_at,
        )
