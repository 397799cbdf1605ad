"""The Kubernetes manifests, checked against the schemas of Kubernetes and against the code."""

from __future__ import annotations

import copy
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from sqlalchemy import Engine, text

from app.cli.commands import app as cli
from app.core.settings import Settings
from tests.keda_schema import SCHEMAS
from tests.test_deployment import instructions_of

FOLDER = Path(__file__).parents[1] / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
#: One version behind the newest that the package knows.
VERSION = "1.36"
OBJECTS: list[dict[str, Any]] = [
    found
    for name in KUSTOMIZATION["resources"]
    for found in yaml.safe_load_all((FOLDER / name).read_text())
]
KEDA = [found for found in OBJECTS if found["apiVersion"].startswith("keda.sh/")]
PODS = [found for found in OBJECTS if "template" in found.get("spec", {})]


def name_of(found: dict[str, Any]) -> str:
    return f"{found['kind']}-{found['metadata']['name']}"


def container(found: dict[str, Any]) -> dict[str, Any]:
    (one,) = found["spec"]["template"]["spec"]["containers"]
    return dict(one)


def test_every_file_is_a_resource() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])
    assert len({name_of(found) for found in OBJECTS}) == len(OBJECTS)


@pytest.mark.parametrize("found", [o for o in OBJECTS if o not in KEDA], ids=name_of)
def test_object_follows_the_schema_of_kubernetes(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, VERSION, strict=True)


@pytest.mark.parametrize("found", KEDA, ids=name_of)
def test_object_follows_the_schema_of_keda(found: dict[str, Any]) -> None:
    jsonschema.validate(found, SCHEMAS[found["kind"]])
    spec = found["spec"]
    if found["kind"] == "ScaledObject":
        assert spec["minReplicaCount"] <= spec["maxReplicaCount"]
    else:  # the only parameter of the scaler with which a URL holds the password
        assert [secret["parameter"] for secret in spec["secretTargetRef"]] == ["connection"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "maxReplicas"), 8),  # a misspelt field
        (("spec", "maxReplicaCount"), "8"),
        (("spec", "cooldownPeriod"), -1),
        (("spec", "scaleTargetRef", "name"), None),
        (("spec", "triggers"), []),
        (("spec", "triggers", 0, "type"), "postgres"),
        (("spec", "triggers", 0, "authenticationRef"), "database"),
        (("spec", "triggers", 0, "metadata", "targetQueryValue"), 1),  # numbers are strings
        (("spec", "triggers", 0, "metadata", "sql"), "SELECT 1"),
        (("apiVersion",), "keda.sh/v1"),
    ],
    ids=str,
)
def test_schema_of_keda_refuses_mistakes(path: tuple[Any, ...], value: object) -> None:
    changed = copy.deepcopy(next(found for found in KEDA if found["kind"] == "ScaledObject"))
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, SCHEMAS["ScaledObject"])


@pytest.mark.parametrize("found", PODS, ids=name_of)
def test_pod_is_confined_and_runs_a_known_command(found: dict[str, Any]) -> None:
    pod, one = found["spec"]["template"]["spec"], container(found)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert one["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in one["resources"]["limits"]
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert one["args"][0] in commands
    assert one["image"] in {image["name"] for image in KUSTOMIZATION["images"]}
    user = next(w[1] for w in instructions_of("api") if w[0] == "USER").partition(":")[0]
    assert str(pod["securityContext"]["runAsUser"]) == user
    mounted = {mount["name"] for mount in one["volumeMounts"]}
    claims = {c["metadata"]["name"] for c in found["spec"].get("volumeClaimTemplates", ())}
    assert mounted == claims | {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("found", PODS, ids=name_of)
def test_settings_exist_and_secrets_are_not_in_the_files(found: dict[str, Any]) -> None:
    known = {f"PLAUDIT_{name.upper()}" for name in Settings.model_fields}
    named = {entry["name"] for entry in container(found).get("env", ())}
    literals = KUSTOMIZATION["configMapGenerator"][0]["literals"]
    assert named | {literal.partition("=")[0] for literal in literals} <= known
    for entry in container(found).get("env", ()):
        assert "value" not in entry or "TOKEN" not in entry["name"]


def test_workers_get_the_time_that_a_drain_takes() -> None:
    worker = next(found for found in PODS if found["metadata"]["name"] == "worker")
    grace = worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= Settings.model_fields["drain_seconds"].default + 60
    probe = container(worker)["livenessProbe"]["exec"]["command"]
    (check,) = (words for words in instructions_of("worker") if words[0] == "HEALTHCHECK")
    assert probe == [word.strip('[],"') for word in check[check.index("CMD") + 1 :]]


def test_every_pod_is_selected_by_the_policies_that_it_needs() -> None:
    """deny-all applies to all pods, so a pod without a label cannot reach the database."""
    for found in PODS:
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert labels["plaudit/data"] == "true"
        if labels["app"] in ("worker", "scorer"):
            assert labels["plaudit/hub"] == "true"


def test_api_reaches_the_scorer_where_it_listens() -> None:
    scorer = container(next(found for found in PODS if found["metadata"]["name"] == "scorer"))
    settings = {entry["name"]: entry.get("value") for entry in scorer["env"]}
    (port,) = (each["containerPort"] for each in scorer["ports"])
    assert settings["PLAUDIT_SCORER_PORT"] == str(port)
    assert settings["PLAUDIT_SCORER_HOST"] == "0.0.0.0"
    policies = {o["metadata"]["name"]: o["spec"] for o in OBJECTS if o["kind"] == "NetworkPolicy"}
    (accepted,) = policies["scorer"]["ingress"]
    reached = [rule for rule in policies["api"]["egress"] if "to" in rule]
    assert accepted["ports"] == [{"protocol": "TCP", "port": port}]
    assert [rule["ports"] for rule in reached] == [accepted["ports"]]
    assert reached[0]["to"] == [{"podSelector": {"matchLabels": {"app": "scorer"}}}]
    assert accepted["from"] == [{"podSelector": {"matchLabels": {"app": "api"}}}]


def test_release_builds_the_images_that_the_manifests_name() -> None:
    path = FOLDER.parents[1] / ".github" / "workflows" / "release.yml"
    release = yaml.safe_load(path.read_text())
    targets = release["jobs"]["images"]["strategy"]["matrix"]["target"]
    assert {f"plaudit-{target}" for target in targets} == {
        image["name"] for image in KUSTOMIZATION["images"]
    }
    assert release["permissions"] == {}
    version = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"][
        "version"
    ]
    assert {image["newTag"] for image in KUSTOMIZATION["images"]} == {version}


def test_scaling_counts_jobs_with_a_query_that_the_database_runs(engine: Engine) -> None:
    scaled = next(found for found in KEDA if found["kind"] == "ScaledObject")
    names = {(o["kind"], o["metadata"]["name"]) for o in OBJECTS}
    target = scaled["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in names
    (trigger,) = scaled["spec"]["triggers"]
    assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in names
    query = trigger["metadata"]["query"]
    assert Settings.model_fields["queue"].default in shlex.split(query.replace("=", " "))
    with engine.connect() as connection:
        assert connection.execute(text(query)).scalar() == 0


def test_commands_of_the_first_lines_create_every_secret_that_is_read() -> None:
    commands = re.findall(
        r"create secret generic (\S+)((?: \\\n# +--from-literal=\S+)+)",
        (FOLDER / "kustomization.yaml").read_text(),
    )
    created = {name: set(re.findall(r"literal=(\w+)=", keys)) for name, keys in commands}
    for found in KEDA:
        for read in found["spec"].get("secretTargetRef", ()):
            assert read["key"] in created[read["name"]]
    for pod in PODS:
        for entry in container(pod).get("env", ()):
            if read := entry.get("valueFrom", {}).get("secretKeyRef"):
                assert read["key"] in created[read["name"]]
        assert all(e["secretRef"]["name"] in created for e in container(pod)["envFrom"][:1])
