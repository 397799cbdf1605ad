"""Schemas of webhooks and of their deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.models import Webhook, WebhookDelivery
from app.web.pagination import Timestamp

EventType = Literal[
    "job.running",
    "job.paused",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "evaluation.running",
    "evaluation.succeeded",
    "evaluation.failed",
    "evaluation.cancelled",
    "score_batch.running",
    "score_batch.succeeded",
    "score_batch.failed",
    "score_batch.cancelled",
]


class WebhookCreate(BaseModel):
    """A new webhook."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] = Field(
        description="An https URL on port 443 of a host that the operator allows.",
        examples=["https://hooks.example.com/plaudit"],
    )
    events: set[EventType] = Field(
        default_factory=lambda: set(get_args(EventType)),
        min_length=1,
        description="Events to send messages for; all events by default.",
        examples=[["job.succeeded", "job.failed"]],
    )


class WebhookRead(BaseModel):
    """A webhook without its secret."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[EventType]
    created_at: Timestamp
    failing_since: Timestamp | None = Field(
        description="Time of the first failed message since the last successful one."
    )
    disabled_at: Timestamp | None = Field(
        description="When the webhook was disabled because it failed for too long. A successful "
        "test enables it again."
    )
    old_secret_expires_at: Timestamp | None = Field(
        description="Until this time messages are also signed with the previous secret."
    )

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Build the schema from the database row."""
        return cls.model_validate(webhook, from_attributes=True)


class WebhookSecret(WebhookRead):
    """A webhook with its secret."""

    secret: str = Field(
        description="Secret `whsec_…` that verifies messages (Standard Webhooks). It is shown only "
        "once."
    )


class DeliveryRead(BaseModel):
    """A message to a webhook and the outcome of its last attempt."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    id: str = Field(description="The `webhook-id` header, which is the same in every attempt.")
    type: EventType | Literal["webhook.test"]
    data: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: Timestamp | None = Field(description="Null unless the message is pending.")
    last_attempt_at: Timestamp | None
    response_status: int | None
    response_body: str | None = Field(description="The first 1024 bytes of the response.")
    error: str | None = Field(description="Why the last attempt failed.")
    created_at: Timestamp

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> Self:
        """Build the schema from the database row."""
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
