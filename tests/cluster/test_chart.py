"""The Helm chart on a real API server: installed, upgraded, removed; and what the operator's account may do.

Uses the cluster that KUBECONFIG names and skips without one. No Pod has to run. Each test has a namespace and a
release of its own. The CustomResourceDefinition is shared by a whole cluster, so that only a copy of the chart
whose API group nobody else has is installed with it.
"""

import base64
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import helm_python
import pytest

# `kubectl auth can-i` asks for resources by what the cluster serves.
pytestmark = pytest.mark.usefixtures("crd")

CHART = Path(__file__).parents[2] / "charts/gvm-operator"
RELEASE = "gvm-operator"
GROUP = "gvm.rlhflow.dev"
WITHOUT_DEFINITION = {"crds": {"enabled": False}}
Values = dict[str, Any]


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--request-timeout=20s", *arguments], input=stdin, text=True, capture_output=True, timeout=60
    )


def get(kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
    where = ["-n", namespace] if namespace else []
    found = kubectl("get", kind, name, *where, "-o", "json")
    assert found.returncode == 0, found.stderr
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def exists(kind: str, name: str, namespace: str | None = None) -> bool:
    where = ["-n", namespace] if namespace else []
    found = kubectl("get", kind, name, *where, "--ignore-not-found", "-o", "name")
    assert found.returncode == 0, found.stderr
    return bool(found.stdout)


def make_namespace() -> str:
    name = f"gvm-chart-{uuid.uuid4().hex[:8]}"
    made = kubectl("create", "namespace", name)
    assert made.returncode == 0, made.stderr
    return name


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two fresh namespaces."""
    names = [make_namespace(), make_namespace()]
    yield names
    kubectl("delete", "namespace", *names, "--wait=false")


@pytest.fixture
def helm(namespaces: list[str]) -> Iterator[helm_python.Config]:
    """Helm in the first namespace; the release is gone at the end, with what it made outside namespaces."""
    with closing(helm_python.Config(namespace=namespaces[0])) as config:
        yield config
        config.uninstall(RELEASE, ignore_not_found=True)


@pytest.fixture
def watching(namespaces: list[str]) -> Values:
    """Values by which the operator runs the second namespace's jobs."""
    return {"watchNamespaces": [namespaces[1]]}


@pytest.fixture
def plain(watching: Values) -> Values:
    """The same beside the definition that is there."""
    return {**watching, **WITHOUT_DEFINITION}


def token_key(namespace: str) -> str:
    data = get("secret", f"{RELEASE}-token-key", namespace)["data"]
    return base64.b64decode(data["token-key"]).decode()


def allowed(namespace: str, account: str, verb: str, resource: str) -> bool:
    user = f"system:serviceaccount:{account}:{RELEASE}"
    resource, _, part = resource.partition("/")
    asked = kubectl("auth", "can-i", verb, resource, f"--subresource={part}", "-n", namespace, "--as", user)
    answer = asked.stdout.strip()
    assert answer in ("yes", "no"), asked.stderr
    return answer == "yes"


# --- the general chart ---


def test_an_installation_makes_the_operator_and_what_it_needs(
    helm: helm_python.Config, namespaces: list[str], plain: Values
) -> None:
    installed = helm.install(CHART, RELEASE, plain)
    assert (installed["status"], installed["revision"]) == ("deployed", 1)
    assert f"kubectl rollout status -n {namespaces[0]} deployment/{RELEASE}" in installed["notes"]
    for kind, name in {
        "deployment": RELEASE,
        "serviceaccount": RELEASE,
        "service": f"{RELEASE}-metrics",
        "secret": f"{RELEASE}-token-key",
    }.items():
        assert exists(kind, name, namespaces[0]), kind
    for kind in ("role", "rolebinding"):
        assert exists(kind, RELEASE, namespaces[1]), kind
    assert exists("clusterrole", f"{namespaces[0]}:{RELEASE}:view")
    assert len(token_key(namespaces[0])) == 48


def test_the_api_server_keeps_the_pod_as_it_was_rendered(
    helm: helm_python.Config, namespaces: list[str], plain: Values
) -> None:
    helm.install(CHART, RELEASE, {**plain, "networkPolicy": {"enabled": True}})
    spec = get("deployment", RELEASE, namespaces[0])["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    variables = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert variables["GVM_OPERATOR_WATCH_NAMESPACES"] == namespaces[1]
    assert exists("networkpolicy", RELEASE, namespaces[0])


@pytest.mark.parametrize("watched", ["own", "given", "all"])
def test_the_operator_may_do_its_work_and_never_read_secrets(
    helm: helm_python.Config, namespaces: list[str], watched: str
) -> None:
    own, other = namespaces
    where: Values = {
        "own": {"watchNamespaces": [own], "settings": {"serveOwnNamespace": True}},
        "given": {"watchNamespaces": [other]},
        "all": {"rbac": {"clusterWide": True}},
    }[watched]
    helm.install(CHART, RELEASE, {**WITHOUT_DEFINITION, **where})
    reached = {"own": {own}, "given": {other}, "all": {own, other}}[watched]
    for namespace in namespaces:
        for verb, resource in [
            ("create", "deployments.apps"),
            ("create", "jobs.batch"),
            ("create", "secrets"),
            ("patch", f"gvmtrainingjobs.{GROUP}/status"),
        ]:
            assert allowed(namespace, own, verb, resource) == (namespace in reached), (namespace, verb, resource)
        for verb, resource in [
            ("get", "secrets"),
            ("list", "secrets"),
            ("watch", "secrets"),
            ("create", "pods"),
            ("create", "pods/exec"),
            ("create", f"gvmtrainingjobs.{GROUP}"),
            ("create", "roles.rbac.authorization.k8s.io"),
        ]:
            assert not allowed(namespace, own, verb, resource), (namespace, verb, resource)


def test_editors_of_a_namespace_may_write_training_jobs_and_viewers_read_them(
    helm: helm_python.Config, namespaces: list[str], plain: Values
) -> None:
    helm.install(CHART, RELEASE, plain)
    assert eventually(lambda: verbs("view") == {"get", "list", "watch"}), verbs("view")
    assert eventually(lambda: {"create", "update", "patch", "delete", "get"} <= verbs("edit")), verbs("edit")


def verbs(role: str) -> set[str]:
    """What a built-in role allows with training jobs."""
    rules = get("clusterrole", role)["rules"] or []
    return {verb for rule in rules if "gvmtrainingjobs" in rule.get("resources", []) for verb in rule["verbs"]}


def eventually(holds: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether it comes true: the cluster's controllers take their time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def test_an_upgrade_keeps_the_token_key_and_the_objects(
    helm: helm_python.Config, namespaces: list[str], plain: Values
) -> None:
    (namespace, _) = namespaces
    kinds = {"deployment": RELEASE, "service": f"{RELEASE}-metrics", "secret": f"{RELEASE}-token-key"}

    def identities() -> dict[str, str]:
        return {kind: get(kind, name, namespace)["metadata"]["uid"] for kind, name in kinds.items()}

    helm.install(CHART, RELEASE, plain)
    key, before = token_key(namespace), identities()
    first = get("deployment", RELEASE, namespace)["metadata"]["generation"]

    assert helm.upgrade(CHART, RELEASE, plain)["revision"] == 2
    assert get("deployment", RELEASE, namespace)["metadata"]["generation"] == first, "nothing changed: no restart"

    changed = {**plain, "settings": {"workers": 16}, "podLabels": {"example/pod": "one"}}
    assert helm.upgrade(CHART, RELEASE, changed)["revision"] == 3
    deployment = get("deployment", RELEASE, namespace)
    assert deployment["metadata"]["generation"] == first + 1
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "GVM_OPERATOR_WORKERS", "value": "16"} in container["env"]
    assert token_key(namespace) == key
    assert identities() == before


def test_an_uninstall_leaves_the_token_key_and_the_next_installation_takes_it_up(
    helm: helm_python.Config, namespaces: list[str], plain: Values
) -> None:
    (namespace, _) = namespaces
    helm.install(CHART, RELEASE, plain)
    key = token_key(namespace)
    helm.uninstall(RELEASE)
    listed = kubectl(
        "get",
        "deployments,services,serviceaccounts,roles,rolebindings,secrets,configmaps,networkpolicies",
        *("-n", namespace, "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name"),
    )
    assert listed.stdout.split() == [f"secret/{RELEASE}-token-key"]
    outside = kubectl("get", "clusterroles,clusterrolebindings", "-o", "name").stdout
    assert namespace not in outside
    helm.install(CHART, RELEASE, plain)
    assert token_key(namespace) == key


# --- the definition ---


@pytest.fixture
def own_definition(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A copy of the chart with an API group of its own: the chart's path, and the definition's name."""
    group = f"g{uuid.uuid4().hex[:8]}.example.com"
    chart = tmp_path / "gvm-operator"
    shutil.copytree(CHART, chart)
    file = chart / "files/gvmtrainingjobs.yaml"
    file.write_text(file.read_text().replace(GROUP, group))
    name = f"gvmtrainingjobs.{group}"
    yield chart, name
    kubectl("delete", "crd", name, "--ignore-not-found", "--timeout=30s")


def test_the_definition_stays_after_an_uninstall_and_is_taken_up_again(
    helm: helm_python.Config, namespaces: list[str], own_definition: tuple[Path, str], watching: Values
) -> None:
    chart, name = own_definition
    helm.install(chart, RELEASE, watching)
    established = kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{name}")
    assert established.returncode == 0, established.stderr
    identity = get("crd", name)["metadata"]["uid"]
    helm.uninstall(RELEASE)
    assert get("crd", name)["metadata"]["uid"] == identity
    helm.install(chart, RELEASE, watching)
    assert get("crd", name)["metadata"]["uid"] == identity


def test_an_upgrade_brings_the_new_definition(
    helm: helm_python.Config, namespaces: list[str], own_definition: tuple[Path, str], watching: Values
) -> None:
    chart, name = own_definition
    helm.install(chart, RELEASE, watching)
    file = chart / "files/gvmtrainingjobs.yaml"
    file.write_text(file.read_text().replace("- name: Age\n", "- name: Since\n"))
    helm.upgrade(chart, RELEASE, watching)
    (version,) = get("crd", name)["spec"]["versions"]
    columns = {column["name"] for column in version["additionalPrinterColumns"]}
    assert "Since" in columns
    assert "Age" not in columns


def test_the_definition_goes_with_the_release_where_it_is_not_kept(
    helm: helm_python.Config, namespaces: list[str], own_definition: tuple[Path, str], watching: Values
) -> None:
    chart, name = own_definition
    helm.install(chart, RELEASE, {**watching, "crds": {"keep": False}})
    helm.uninstall(RELEASE)
    gone = kubectl("wait", "--for=delete", "--timeout=30s", f"crd/{name}")
    assert gone.returncode == 0, gone.stderr
    assert not exists("crd", name)


def test_a_definition_that_helm_did_not_make_is_not_taken_over_silently(
    helm: helm_python.Config, namespaces: list[str], own_definition: tuple[Path, str], watching: Values
) -> None:
    chart, name = own_definition
    applied = kubectl("apply", "--validate=false", "-f", str(chart / "files/gvmtrainingjobs.yaml"))
    assert applied.returncode == 0, applied.stderr
    with pytest.raises(helm_python.HelmReleaseError, match="cannot be imported into the current release"):
        helm.install(chart, RELEASE, watching)
    assert "annotations" not in get("crd", name)["metadata"] or (
        "meta.helm.sh/release-name" not in get("crd", name)["metadata"]["annotations"]
    )
