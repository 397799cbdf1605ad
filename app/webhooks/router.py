"""Routes of /v1/webhooks. They require the admin scope."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, status

from app.audit import log as audit_log
from app.audit.actor import ActorDep
from app.core.database import transaction
from app.core.errors import QuotaError
from app.models import WebhookDelivery
from app.web.dependencies import (
    PageQuery,
    ReadEngineDep,
    RequireAdmin,
    SessionDep,
    SettingsDep,
    page_of,
)
from app.web.pagination import Page, by_id
from app.web.problem_details import error_responses
from app.web.strict_route import StrictRoute
from app.webhooks import outbox, service
from app.webhooks.guard import WebhookUrlError, check_url
from app.webhooks.schemas import DeliveryRead, WebhookCreate, WebhookRead, WebhookSecret
from app.webhooks.service import WebhookNotFoundError

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)

WebhookId = Annotated[str, Path(pattern=r"^wh_[0-9a-f]{32}$")]
_NOT_FOUND = error_responses(WebhookNotFoundError)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    responses=error_responses(WebhookUrlError, QuotaError),
)
def create_webhook(
    body: WebhookCreate,
    session: SessionDep,
    settings: SettingsDep,
    principal: RequireAdmin,
    actor: ActorDep,
) -> WebhookSecret:
    """Create a webhook: a URL that gets a message when jobs, evaluations or batches start or end.

    The response contains the signing secret, which is not shown again.
    """
    check_url(settings, body.url)
    webhook = service.create(session, principal.tenant_id, body.url, body.events)
    audit_log.record(session, actor, "webhook.create", webhook.id)
    return WebhookSecret.of(webhook)


@router.get("")
def list_webhooks(
    engine: ReadEngineDep,
    principal: RequireAdmin,
    page: Annotated[PageQuery, Depends(page_of("wh"))],
) -> Page[WebhookRead]:
    """List webhooks, newest first."""
    with transaction(engine) as session:
        rows = service.list_page(session, principal.tenant_id, page.limit, page.after)
    return Page[WebhookRead].of(rows, page.limit, WebhookRead.of, by_id)


@router.get("/{webhook_id}", responses=_NOT_FOUND)
def get_webhook(
    webhook_id: WebhookId, engine: ReadEngineDep, principal: RequireAdmin
) -> WebhookRead:
    """Get a webhook, without its secret."""
    with transaction(engine) as session:
        return WebhookRead.of(service.get(session, principal.tenant_id, webhook_id))


@router.delete("/{webhook_id}", status_code=status.HTTP_204_NO_CONTENT, responses=_NOT_FOUND)
def delete_webhook(
    webhook_id: WebhookId, session: SessionDep, principal: RequireAdmin, actor: ActorDep
) -> None:
    """Delete a webhook and its pending messages."""
    service.remove(session, principal.tenant_id, webhook_id)
    audit_log.record(session, actor, "webhook.delete", webhook_id)


@router.post("/{webhook_id}/test", status_code=status.HTTP_202_ACCEPTED, responses=_NOT_FOUND)
def test_webhook(
    webhook_id: WebhookId, session: SessionDep, principal: RequireAdmin, actor: ActorDep
) -> DeliveryRead:
    """Send a `webhook.test` message once. Its outcome is shown in the list of deliveries.

    If a disabled webhook responds with status 2xx, it is enabled again.
    """
    webhook = service.get(session, principal.tenant_id, webhook_id)
    delivery = outbox.enqueue_test(session, webhook)
    audit_log.record(session, actor, "webhook.test", webhook_id)
    return DeliveryRead.of(delivery)


@router.get("/{webhook_id}/deliveries", responses=_NOT_FOUND)
def list_deliveries(
    webhook_id: WebhookId,
    engine: ReadEngineDep,
    principal: RequireAdmin,
    page: Annotated[PageQuery, Depends(page_of("evt"))],
) -> Page[DeliveryRead]:
    """List the messages of the last 30 days and their outcome, newest first."""
    with transaction(engine) as session:
        webhook = service.get(session, principal.tenant_id, webhook_id)
        rows = service.list_deliveries(session, webhook, page.limit, page.after)
    return Page[DeliveryRead].of(rows, page.limit, DeliveryRead.of, _by_event)


@router.post("/{webhook_id}/rotate-secret", responses=_NOT_FOUND)
def rotate_webhook_secret(
    webhook_id: WebhookId, session: SessionDep, principal: RequireAdmin, actor: ActorDep
) -> WebhookSecret:
    """Replace the secret. For one day messages are also signed with the previous secret."""
    webhook = service.rotate_secret(session, principal.tenant_id, webhook_id)
    audit_log.record(session, actor, "webhook.rotate_secret", webhook_id)
    return WebhookSecret.of(webhook)


def _by_event(delivery: WebhookDelivery) -> str:
    return delivery.event_id
