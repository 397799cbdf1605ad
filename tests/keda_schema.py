"""JSON schemas of the KEDA fields that deploy/kubernetes uses.

Written after the reference of KEDA 2.20. A package with its definitions would require a Kubernetes
client. Unknown fields are rejected, as in a strict validation of kubectl.

https://keda.sh/docs/2.20/reference/scaledobject-spec/
https://keda.sh/docs/2.20/concepts/authentication/
https://keda.sh/docs/2.20/scalers/postgresql/
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _resource(kind: str, spec: Schema) -> Schema:
    return _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "keda.sh/v1alpha1"},
        kind={"const": kind},
        metadata={"type": "object", "required": ["name"]},
        spec=spec,
    )


#: Values of a trigger's metadata are strings, even numbers.
_POSTGRESQL = _object(
    ("query", "targetQueryValue"),
    query=_TEXT,
    targetQueryValue={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    activationTargetQueryValue={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    host=_TEXT,
    port=_TEXT,
    userName=_TEXT,
    dbName=_TEXT,
    sslmode=_TEXT,
    connectionFromEnv=_TEXT,
    passwordFromEnv=_TEXT,
)
_TRIGGER = _object(
    ("type", "metadata"),
    type={"const": "postgresql"},
    name=_TEXT,
    metadata=_POSTGRESQL,
    metricType={"enum": ["AverageValue", "Value"]},
    useCachedMetrics={"type": "boolean"},
    authenticationRef=_object(
        ("name",),
        name=_TEXT,
        kind={"enum": ["TriggerAuthentication", "ClusterTriggerAuthentication"]},
    ),
)
_TARGET = _object(("name",), name=_TEXT, kind=_TEXT, apiVersion=_TEXT, envSourceContainerName=_TEXT)
_SECRET = _object(("parameter", "name", "key"), parameter=_TEXT, name=_TEXT, key=_TEXT)

SCHEMAS: dict[str, Schema] = {
    "ScaledObject": _resource(
        "ScaledObject",
        _object(
            ("scaleTargetRef", "triggers"),
            scaleTargetRef=_TARGET,
            triggers={"type": "array", "minItems": 1, "items": _TRIGGER},
            pollingInterval=_COUNT,
            cooldownPeriod=_COUNT,
            initialCooldownPeriod=_COUNT,
            idleReplicaCount=_COUNT,
            minReplicaCount=_COUNT,
            maxReplicaCount=_COUNT,
        ),
    ),
    "TriggerAuthentication": _resource(
        "TriggerAuthentication",
        _object((), secretTargetRef={"type": "array", "minItems": 1, "items": _SECRET}),
    ),
}
