"""Between messages and values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cubemesh.v1 import picod_pb2, principal_pb2, workloadmanager_pb2
from workloadmanager._contents import Contents
from workloadmanager._deadlines import Touch
from workloadmanager._errors import InvalidRequestError
from workloadmanager._feed import (
    ActivityQuery,
    Changed,
    Event,
    Heartbeat,
    Snapshot,
    Waiting,
)
from workloadmanager._values import Isolation, Owner, Session, Wish

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from workloadmanager._templates import Template

__all__ = [
    "event_to_wire",
    "owner_from_wire",
    "session_to_wire",
    "span_from_wire",
    "template_to_wire",
    "touch_from_wire",
    "wish_from_wire",
]

_LONGEST_SPAN = timedelta(days=36500).total_seconds()


def session_to_wire(session: Session) -> workloadmanager_pb2.SandboxSession:
    """Return the message that tells of *session*."""
    message = workloadmanager_pb2.SandboxSession(
        session_id=session.session_id,
        sandbox_id=session.sandbox_id,
        namespace=session.namespace,
        template=session.template,
        owner=principal_pb2.Principal(
            issuer=session.owner.issuer,
            subject=session.owner.subject,
            display=session.owner.display,
        ),
        state=workloadmanager_pb2.SessionState.ValueType(session.state),
        address=session.address,
        spiffe_id=session.spiffe_id,
        isolation=_isolation_to_wire(session.isolation),
        last_fault=session.last_fault,
        start=workloadmanager_pb2.Start.ValueType(session.start or 0),
    )
    message.created_at.FromDatetime(session.created_at)
    message.expires_at.FromDatetime(session.expires_at)
    message.idle_timeout.FromTimedelta(session.idle_timeout)
    message.last_activity.FromDatetime(session.last_activity)
    return message


def template_to_wire(
    template: Template, default_isolation: str
) -> workloadmanager_pb2.Template:
    """Return the message that tells of *template*."""
    message = workloadmanager_pb2.Template(
        name=template.name,
        description=template.description,
        isolation=template.isolation or default_isolation,
    )
    message.default_lifetime.FromTimedelta(template.default_lifetime)
    message.maximum_lifetime.FromTimedelta(template.maximum_lifetime)
    message.idle_timeout.FromTimedelta(template.idle_timeout)
    return message


def event_to_wire(event: Event) -> workloadmanager_pb2.WatchSessionsResponse:
    """Return the message that tells of *event*."""
    message = workloadmanager_pb2.WatchSessionsResponse(revision=event.revision)
    match event:
        case Snapshot(sessions=sessions, complete=complete):
            message.snapshot.complete = complete
            message.snapshot.sessions.extend(map(session_to_wire, sessions))
        case Changed(session=session):
            message.changed.CopyFrom(session_to_wire(session))
        case Heartbeat():
            message.heartbeat.SetInParent()
        case ActivityQuery(session_id=session_id):
            message.activity_query.session_id = session_id
        case Waiting(sandboxes=sandboxes):
            message.waiting.SetInParent()
            for each in sandboxes:
                message.waiting.sandboxes.add(
                    address=each.address, spiffe_id=each.spiffe_id
                )
    return message


def wish_from_wire(request: workloadmanager_pb2.CreateSessionRequest) -> Wish:
    """Return what *request* asks for.

    Raises:
        InvalidRequestError: a duration is no duration.
    """
    return Wish(
        owner=owner_from_wire(request.owner),
        namespace=request.namespace,
        template=request.template,
        request_id=request.request_id,
        lifetime=_optional_span(request, "lifetime"),
        idle_timeout=_optional_span(request, "idle_timeout"),
        environment=dict(request.environment),
        contents=Contents(
            [(each.path, each.content) for each in request.files],
            dict(request.secrets),
        ),
    )


def owner_from_wire(principal: principal_pb2.Principal) -> Owner:
    """Return the owner that *principal* names."""
    return Owner(principal.issuer, principal.subject, principal.display)


def touch_from_wire(
    message: workloadmanager_pb2.TouchSessionsRequest.Touch,
) -> Touch:
    """Return what a Router saw of one session.

    Raises:
        InvalidRequestError: the time is none.
    """
    try:
        seen = message.last_activity.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequestError("last_activity", "is no time") from error
    return Touch(message.session_id, max(seen, _EPOCH), message.open_calls)


def span_from_wire(field: str, message: Duration) -> timedelta:
    """Return the duration that *message* tells, whole milliseconds.

    Raises:
        InvalidRequestError: it is none, or longer than a hundred years.
    """
    if not abs(message.seconds) <= _LONGEST_SPAN or abs(message.nanos) >= 10**9:
        raise InvalidRequestError(field, "is out of range")
    span = timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    return span // _MILLISECOND * _MILLISECOND


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def _optional_span(request: Any, field: str) -> timedelta | None:
    if not request.HasField(field):
        return None
    return span_from_wire(field, getattr(request, field))


def _isolation_to_wire(isolation: Isolation | None) -> picod_pb2.Isolation | None:
    if isolation is None:
        return None
    return picod_pb2.Isolation(
        level=isolation.level,
        uid=isolation.uid,
        own_uid=isolation.own_uid,
        limits=isolation.limits,
        limits_by=isolation.limits_by,
        network=isolation.network,
    )
