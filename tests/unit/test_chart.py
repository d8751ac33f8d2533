"""The Helm chart: what it renders for which values, and which values it refuses. No cluster is needed.

goldens      default, cluster-wide, watch-namespaces, monitoring, everything; without definition and dashboards
definition   the copy is fresh, rendered unchanged, kept or not, left out
rights       exactly the contract's, per namespace or cluster-wide; no reads of Secrets
values       the schema knows each value, refuses others and names them
"""

import base64
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from gvm_api import yaml_format
from gvm_operator.settings import PREFIX, Settings, read_settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/gvm-operator"
KEY = "not-a-secret-not-a-secret-not-a-secret-not-a-sec"
MONITORING = {
    "podMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboards": {"enabled": True},
}
EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "gvm",
    "commonLabels": {"team": "research"},
    "imagePullSecrets": [{"name": "registry"}, {"name": "mirror"}],
    "images": {
        "registry": "registry.example/team/",
        "pullPolicy": "IfNotPresent",
        "operator": {"digest": "sha256:" + "0" * 64, "pullPolicy": "Always"},
        "rollout": {"repository": "vllm-gvm", "tag": "1.2"},
    },
    "watchNamespaces": ["red", "blue"],
    "rbac": {"aggregate": False},
    "serviceAccount": {"name": "trainer", "annotations": {"example/role": "gvm"}},
    "settings": {
        "serveOwnNamespace": True,
        "networkPolicies": False,
        "monitoringNamespace": "monitoring",
        "resyncSeconds": 30,
        "progressSeconds": 2.5,
        "workers": 16,
        "healthPort": 8081,
        "metricsPort": 9091,
        "logFormat": "json",
        "logLevel": "DEBUG",
    },
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "resources": {"limits": {"memory": "1Gi"}},
    "podAnnotations": {"example/note": "one"},
    "podLabels": {"example/pod": "two"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "system",
    "service": {"port": 80, "annotations": {"example/service": "three"}},
    "monitoring": {
        "podMonitor": {"enabled": True, "interval": "15s", "scrapeTimeout": "10s", "labels": {"release": "prom"}},
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "prom"},
            "alertLabels": {"team": "research"},
            "runbookUrl": "https://wiki.example/operations",
            "thresholds": {"klNats": 0.2},
        },
        "dashboards": {"enabled": True, "annotations": {"grafana_folder": "GVM"}},
    },
    "networkPolicy": {"enabled": True, "apiServerPorts": [6443]},
}
GOLDENS: dict[str, dict[str, Any]] = {
    "default": {"watchNamespaces": ["research"]},
    "cluster-wide": {"rbac": {"clusterWide": True}, "monitoring": {"podMonitor": {"enabled": True}}},
    "watch-namespaces": {"watchNamespaces": ["red", "blue"], "monitoring": {"podMonitor": {"enabled": True}}},
    "monitoring": {
        "watchNamespaces": ["research"],
        "monitoring": MONITORING,
        "settings": {"monitoringNamespace": "monitoring"},
    },
    "everything": EVERYTHING,
}
# What the operator does to the cluster, and no more.
RIGHTS = {
    ("gvm.rlhflow.dev", "gvmtrainingjobs"): "get list watch delete",
    ("gvm.rlhflow.dev", "gvmtrainingjobs/status"): "get patch",
    ("gvm.rlhflow.dev", "gvmtrainingjobs/finalizers"): "update",
    ("", "configmaps"): "get list watch create patch delete",
    ("", "services"): "get list watch create delete",
    ("", "persistentvolumeclaims"): "get list watch create delete",
    ("", "secrets"): "create delete",
    ("", "pods"): "get list watch",
    ("", "events"): "create get patch",
    ("apps", "deployments"): "get list watch create patch delete",
    ("batch", "jobs"): "get list watch create delete",
    ("networking.k8s.io", "networkpolicies"): "get list watch create delete",
    ("policy", "poddisruptionbudgets"): "get list watch create delete",
}


def texts(values: dict[str, Any], name: str = "gvm-operator", namespace: str = "gvm-system") -> dict[str, str]:
    """Template file → rendered text. Jobs run in namespace research, unless the values say where."""
    if not values.get("rbac", {}).get("clusterWide"):
        values = {"watchNamespaces": ["research"], **values}
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name=name, namespace=namespace)
    return {path.rsplit("/", 1)[1]: text for path, text in sorted(rendered.items()) if text.strip()}


def objects(values: dict[str, Any] | None = None, **release: str) -> list[dict[str, Any]]:
    rendered = texts(values or {}, **release)
    documents = (yaml_format.load_all(text) for file, text in rendered.items() if file.endswith(".yaml"))
    return [document for each in documents for document in each if document]


def of_kind(kind: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in found if each["kind"] == kind]


def the(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    (one,) = of_kind(kind, found)
    return one


def pod(found: list[dict[str, Any]]) -> dict[str, Any]:
    return the("Deployment", found)["spec"]["template"]


def container(found: list[dict[str, Any]]) -> dict[str, Any]:
    (one,) = pod(found)["spec"]["containers"]
    return one


def environment(found: list[dict[str, Any]]) -> dict[str, str | None]:
    return {entry["name"]: entry.get("value") for entry in container(found)["env"]}


def rights(role: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {
        (group, resource): " ".join(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises((helm_python.HelmValuesError, helm_python.HelmRenderError)) as refused:
        texts(values)
    return str(refused.value)


# --- the chart as a whole ---


def test_lint_asks_for_nothing_but_an_icon() -> None:
    report = helm_python.lint(CHART, GOLDENS["default"], strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("kube_version", ["v1.20.0", "v1.25.0", "v1.34.0"])
@pytest.mark.parametrize("values", GOLDENS.values(), ids=GOLDENS)
def test_lint_passes_for_old_and_new_clusters(values: dict[str, Any], kube_version: str) -> None:
    assert helm_python.lint(CHART, values, strict=True, kube_version=kube_version)["errors"] == []


@pytest.mark.parametrize("name", GOLDENS)
def test_the_chart_renders_as_recorded(name: str, golden: Callable[[str, str], None]) -> None:
    rendered = texts({**GOLDENS[name], "tokenKey": {"value": KEY}})
    for file in ("crds.yaml", "dashboards.yaml"):  # long, and with tests of their own
        rendered.pop(file, None)
    golden(f"chart.{name}.yaml", "".join(f"---\n# {file}\n{text.strip()}\n" for file, text in rendered.items()))


def test_chart_and_package_have_one_version() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (package, package)


def test_every_object_carries_the_recommended_labels_and_the_common_ones() -> None:
    for found in objects(EVERYTHING):
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "gvm-operator"
        assert labels["app.kubernetes.io/instance"] == "gvm-operator"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["team"] == "research"


def test_every_object_is_found_once_and_in_the_release_s_namespace_or_a_watched_one() -> None:
    found = objects(EVERYTHING)
    identities = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in found]
    assert len(set(identities)) == len(identities)
    assert {namespace for _, namespace, _ in identities} == {None, "gvm-system", "red", "blue"}


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("gvm-operator", {}, "gvm-operator"),
        ("my-gvm-operator", {}, "my-gvm-operator"),
        ("lab", {}, "lab-gvm-operator"),
        ("lab", {"nameOverride": "trainer"}, "lab-trainer"),
        ("lab", {"fullnameOverride": "trainer"}, "trainer"),
    ],
)
def test_objects_are_named_after_the_release(release: str, values: dict[str, Any], name: str) -> None:
    found = objects(values, name=release)
    assert the("Deployment", found)["metadata"]["name"] == name
    assert the("Service", found)["metadata"]["name"] == f"{name}-metrics"
    assert the("Secret", found)["metadata"]["name"] == f"{name}-token-key"


def test_names_fit_a_dns_label_under_the_longest_release_name() -> None:
    found = objects({"monitoring": MONITORING}, name="r" * 53)
    namespaced = [o["metadata"]["name"] for o in found if "namespace" in o["metadata"]]
    assert max(map(len, namespaced)) <= 63


def test_releases_of_one_name_in_two_namespaces_share_no_object() -> None:
    values = {"rbac": {"clusterWide": True}, "crds": {"enabled": False}}

    def outside(namespace: str) -> set[tuple[str, str]]:
        found = objects(values, namespace=namespace)
        return {(o["kind"], o["metadata"]["name"]) for o in found if "namespace" not in o["metadata"]}

    red, blue = outside("red"), outside("blue")
    assert len(red) == 4
    assert not red & blue


# --- the definition ---


def test_the_chart_s_copy_of_the_definition_is_fresh() -> None:
    generated = (ROOT / "crds/gvmtrainingjobs.yaml").read_bytes()
    assert (CHART / "files/gvmtrainingjobs.yaml").read_bytes() == generated, "run make generate"


def test_the_definition_is_rendered_as_it_is_generated() -> None:
    generated = yaml.safe_load((CHART / "files/gvmtrainingjobs.yaml").read_text())
    rendered = the("CustomResourceDefinition", objects())
    assert rendered["spec"] == generated["spec"]
    assert rendered["metadata"]["name"] == generated["metadata"]["name"]


def test_the_definition_is_kept_unless_told_otherwise() -> None:
    def annotations(keep: bool) -> dict[str, str]:
        definition = the("CustomResourceDefinition", objects({"crds": {"keep": keep}}))
        return definition["metadata"].get("annotations", {})

    assert annotations(keep=True) == {"helm.sh/resource-policy": "keep"}
    assert annotations(keep=False) == {}


def test_without_the_definition_the_rest_is_the_same() -> None:
    token = {"value": KEY}
    rest = objects({"tokenKey": token, "crds": {"enabled": False}})
    assert of_kind("CustomResourceDefinition", rest) == []
    assert rest == [o for o in objects({"tokenKey": token}) if o["kind"] != "CustomResourceDefinition"]


# --- security ---


@pytest.mark.parametrize("values", GOLDENS.values(), ids=GOLDENS)
def test_every_container_fulfils_the_restricted_pod_security_standard(values: dict[str, Any]) -> None:
    spec = pod(objects(values))["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    assert {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}} == {"secret", "emptyDir"}
    assert len(spec["containers"]) == 1
    for each in spec["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_only_place_that_can_be_written_is_the_temporary_folder() -> None:
    found = objects()
    assert {m["mountPath"]: m.get("readOnly", False) for m in container(found)["volumeMounts"]} == {
        "/tmp": False,
        "/var/run/gvm-operator": True,
    }
    assert {"name": "tmp", "emptyDir": {}} in pod(found)["spec"]["volumes"]


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [
        ({"watchNamespaces": ["red", "blue"]}, ["red", "blue"]),
        ({"watchNamespaces": ["gvm-system"], "settings": {"serveOwnNamespace": True}}, ["gvm-system"]),
    ],
)
def test_the_rights_are_the_contract_s_in_each_watched_namespace(values: dict[str, Any], namespaces: list[str]) -> None:
    found = objects(values)
    assert [role["metadata"]["namespace"] for role in of_kind("Role", found)] == namespaces
    assert all(rights(role) == RIGHTS for role in of_kind("Role", found))
    bindings = of_kind("RoleBinding", found)
    assert [binding["metadata"]["namespace"] for binding in bindings] == namespaces
    for binding in bindings:
        assert binding["roleRef"]["name"] == "gvm-operator"
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "gvm-operator", "namespace": "gvm-system"},
        ]
    assert of_kind("ClusterRoleBinding", found) == []
    assert environment(found)["GVM_OPERATOR_WATCH_NAMESPACES"] == ",".join(namespaces)


def test_the_rights_are_the_contract_s_cluster_wide() -> None:
    found = objects({"rbac": {"clusterWide": True, "aggregate": False}})
    role = the("ClusterRole", found)
    assert rights(role) == RIGHTS
    binding = the("ClusterRoleBinding", found)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == the("ServiceAccount", found)["metadata"]["name"]
    assert (of_kind("Role", found), of_kind("RoleBinding", found)) == ([], [])
    assert environment(found)["GVM_OPERATOR_WATCH_NAMESPACES"] == ""


@pytest.mark.parametrize("values", GOLDENS.values(), ids=GOLDENS)
def test_no_role_reads_secrets_or_has_wildcards(values: dict[str, Any]) -> None:
    found = objects(values)
    for role in of_kind("Role", found) + of_kind("ClusterRole", found):
        for (group, resource), verbs in rights(role).items():
            assert "*" not in (group, resource, *verbs.split())
            assert resource != "secrets" or not {"get", "list", "watch", "patch", "update"} & set(verbs.split())


def test_rights_and_account_may_come_from_elsewhere() -> None:
    values = {
        "rbac": {"create": False, "aggregate": False},
        "serviceAccount": {"create": False, "name": "given"},
    }
    found = objects(values)
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount"} & {
        o["kind"] for o in found
    }
    assert pod(found)["spec"]["serviceAccountName"] == "given"


def test_the_built_in_roles_learn_of_training_jobs() -> None:
    view, edit = sorted(of_kind("ClusterRole", objects()), key=lambda role: role["metadata"]["name"], reverse=True)

    def joined(role: dict[str, Any]) -> set[str]:
        prefix = "rbac.authorization.k8s.io/aggregate-to-"
        return {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)}

    assert joined(view) == {"view", "edit", "admin"}
    assert rights(view) == {
        ("gvm.rlhflow.dev", "gvmtrainingjobs"): "get list watch",
        ("gvm.rlhflow.dev", "gvmtrainingjobs/status"): "get list watch",
    }
    assert joined(edit) == {"edit", "admin"}
    assert rights(edit) == {
        ("gvm.rlhflow.dev", "gvmtrainingjobs"): "create update patch delete deletecollection",
    }


def test_the_token_key_is_random_where_nobody_gives_one() -> None:
    keys = [base64.b64decode(the("Secret", objects())["data"]["token-key"]).decode() for _ in range(2)]
    assert all(re.fullmatch("[A-Za-z0-9]{48}", key) for key in keys)
    assert keys[0] != keys[1]


def test_the_token_key_outlives_the_release() -> None:
    assert the("Secret", objects())["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_given_token_key_is_used_and_another_one_restarts_the_operator() -> None:
    def key_and_pod(key: str) -> tuple[str, dict[str, Any]]:
        found = objects({"tokenKey": {"value": key}})
        return base64.b64decode(the("Secret", found)["data"]["token-key"]).decode(), pod(found)

    one, other = key_and_pod(KEY), key_and_pod(KEY[::-1])
    assert (one[0], other[0]) == (KEY, KEY[::-1])
    assert one[1] != other[1]
    assert KEY not in json.dumps(one[1])


def test_an_existing_secret_is_mounted_and_none_is_made() -> None:
    found = objects({"tokenKey": {"existingSecret": "mine", "secretKey": "hmac"}})
    assert of_kind("Secret", found) == []
    (volume,) = (v["secret"] for v in pod(found)["spec"]["volumes"] if "secret" in v)
    assert (volume["secretName"], volume["items"]) == ("mine", [{"key": "hmac", "path": "token-key"}])


def test_the_operator_reads_the_token_key_where_it_is_mounted() -> None:
    found = objects()
    (mount,) = (m for m in container(found)["volumeMounts"] if m["name"] == "token-key")
    (volume,) = (v["secret"] for v in pod(found)["spec"]["volumes"] if v["name"] == "token-key")
    assert volume["secretName"] == the("Secret", found)["metadata"]["name"]
    assert volume["items"][0]["key"] in the("Secret", found)["data"]
    assert str(settings({}).token_key_file) == f"{mount['mountPath']}/{volume['items'][0]['path']}"


def test_the_network_policy_lets_probes_in_and_scrapes_from_the_monitoring_namespace_only() -> None:
    def ingress(namespace: str) -> list[dict[str, Any]]:
        values = {"networkPolicy": {"enabled": True}, "settings": {"monitoringNamespace": namespace}}
        policy = the("NetworkPolicy", objects(values))
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        return policy["spec"]["ingress"]

    health = {"ports": [{"port": "health", "protocol": "TCP"}]}
    scrape = {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "prom"}}}],
        "ports": [{"port": "metrics", "protocol": "TCP"}],
    }
    assert ingress("") == [health]
    assert ingress("prom") == [health, scrape]


# --- the operator's pod ---


def settings(values: dict[str, Any]) -> Settings:
    """What the operator reads from its pod's environment."""
    variables = environment(objects(values))
    assert variables[PREFIX + "NAMESPACE"] is None, "it is a reference, tested below"
    return read_settings({name: value for name, value in variables.items() if value is not None})


def test_the_operator_is_given_every_setting_and_no_other() -> None:
    assert environment(objects()).keys() == {PREFIX + name.upper() for name in Settings.model_fields}


def test_by_default_the_chart_s_settings_are_the_operator_s_own() -> None:
    given = {
        "watch_namespaces": ("research",),
        "rollout_image": "gvm-rollout:0.1.0",
        "allocator_image": "gvm-allocator:0.1.0",
        "learner_image": "gvm-trainer:0.1.0",
    }
    assert settings({}) == Settings().model_copy(update=given)


def test_every_setting_can_be_changed_by_a_value() -> None:
    values = {**EVERYTHING, "settings": {**EVERYTHING["settings"], "allocatorUrl": "http://{name}.{namespace}:1"}}
    changed, default = settings(values), settings({})
    unchanged = {name for name in Settings.model_fields if getattr(changed, name) == getattr(default, name)}
    assert unchanged == {"namespace", "token_key_file"}
    assert changed.image_pull_secrets == ("registry", "mirror")
    assert changed.watch_namespaces == ("red", "blue")
    assert changed.network_policies is False
    assert (changed.resync_seconds, changed.progress_seconds, changed.workers) == (30.0, 2.5, 16)
    assert environment(objects(values))["HTTPS_PROXY"] == "http://proxy.example:3128"


def test_the_operator_learns_its_namespace_from_its_pod() -> None:
    (own,) = (e for e in container(objects())["env"] if e["name"] == "GVM_OPERATOR_NAMESPACE")
    assert own["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


def test_one_operator_runs_at_a_time() -> None:
    spec = the("Deployment", objects())["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_probes_and_the_service_reach_ports_that_the_operator_opens() -> None:
    found = objects({"settings": {"healthPort": 8081, "metricsPort": 9091}})
    each = container(found)
    ports = {port["name"]: port["containerPort"] for port in each["ports"]}
    assert ports == {"health": 8081, "metrics": 9091}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert each[probe]["httpGet"] == {"path": "/healthz", "port": "health"}
    (port,) = the("Service", found)["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (9090, "metrics")
    variables = environment(found)
    assert (variables["GVM_OPERATOR_HEALTH_PORT"], variables["GVM_OPERATOR_METRICS_PORT"]) == ("8081", "9091")


@pytest.mark.parametrize("values", [{}, {"nameOverride": "other"}, {"fullnameOverride": "other"}])
def test_selectors_choose_the_operator_s_pod_and_the_jobs_policies_know_it(values: dict[str, Any]) -> None:
    found = objects({**values, "monitoring": MONITORING, "networkPolicy": {"enabled": True}})
    labels = pod(found)["metadata"]["labels"]
    operator_monitor = of_kind("PodMonitor", found)[0]
    selectors = [
        the("Deployment", found)["spec"]["selector"]["matchLabels"],
        the("Service", found)["spec"]["selector"],
        the("NetworkPolicy", found)["spec"]["podSelector"]["matchLabels"],
        operator_monitor["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert labels["app.kubernetes.io/name"] == "gvm-operator"


def test_images_take_registry_tag_and_digest() -> None:
    variables = environment(objects(EVERYTHING))
    each = container(objects(EVERYTHING))
    assert each["image"] == "registry.example/team/gvm-operator@sha256:" + "0" * 64
    assert each["imagePullPolicy"] == "Always"
    assert variables["GVM_OPERATOR_ROLLOUT_IMAGE"] == "registry.example/team/vllm-gvm:1.2"
    assert variables["GVM_OPERATOR_LEARNER_IMAGE"] == "registry.example/team/gvm-trainer:0.1.0"
    assert variables["GVM_OPERATOR_IMAGE_PULL_POLICY"] == "IfNotPresent"


# --- monitoring ---


def test_monitoring_makes_nothing_unless_asked() -> None:
    kinds = {o["kind"] for o in objects()}
    assert not {"PodMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy"} & kinds


@pytest.mark.parametrize(
    ("values", "selector"),
    [
        ({"watchNamespaces": ["red", "blue"]}, {"matchNames": ["red", "blue"]}),
        ({"rbac": {"clusterWide": True}}, {"any": True}),
    ],
)
def test_jobs_are_scraped_where_they_run(values: dict[str, Any], selector: dict[str, Any]) -> None:
    found = objects({**values, "monitoring": {"podMonitor": {"enabled": True}}})
    jobs = of_kind("PodMonitor", found)[1]["spec"]
    assert jobs["namespaceSelector"] == selector
    (endpoint,) = jobs["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["honorLabels"]) == ("http", "/metrics", True)
    (roles,) = jobs["selector"]["matchExpressions"]
    assert roles["values"] == ["allocator", "learner", "rollout"]


@pytest.mark.parametrize(
    ("role", "index", "is_scraped"),
    [
        ("learner", "0", True),
        ("learner", "1", False),
        ("learner", "12", False),
        ("learner", "", True),
        ("rollout", "", True),
        ("allocator", "", True),
    ],
)
def test_of_a_learner_s_pods_the_first_is_scraped(role: str, index: str, is_scraped: bool) -> None:
    found = objects({"monitoring": {"podMonitor": {"enabled": True}}})
    (endpoint,) = of_kind("PodMonitor", found)[1]["spec"]["podMetricsEndpoints"]
    (drop,) = (each for each in endpoint["relabelings"] if each.get("action") == "drop")
    assert [label.rpartition("_kubernetes_io_")[2] for label in drop["sourceLabels"]] == [
        "component",
        "job_completion_index",
    ]
    assert (re.fullmatch(drop["regex"], f"{role};{index}") is None) == is_scraped


def test_the_jobs_monitor_can_be_left_out() -> None:
    values = {"monitoring": {"podMonitor": {"enabled": True, "jobs": False}}}
    assert [m["metadata"]["name"] for m in of_kind("PodMonitor", objects(values))] == ["gvm-operator"]


def groups(**prometheus_rule: Any) -> dict[str, list[dict[str, Any]]]:
    values = {"monitoring": {"prometheusRule": {"enabled": True, **prometheus_rule}}}
    return {group["name"]: group["rules"] for group in the("PrometheusRule", objects(values))["spec"]["groups"]}


def test_every_alert_says_what_to_do_how_bad_it_is_and_where_to_read_on() -> None:
    found = groups(runbookUrl="https://wiki.example/operations", alertLabels={"team": "research"})
    assert list(found) == ["gvm-operator", "gvm-jobs"]
    for rule in (rule for rules in found.values() for rule in rules):
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["labels"]["team"] == "research"
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/operations#{rule['alert'].lower()}"


def test_alerts_have_no_runbook_unless_one_is_named() -> None:
    assert all(
        rule["annotations"].keys() == {"summary", "description"} for rules in groups().values() for rule in rules
    )


def test_thresholds_come_from_the_values() -> None:
    thresholds = {
        "waitingSeconds": 11, "restarts": 12, "stalledIterations": 13, "stalledSeconds": 14, "klNats": 0.15,
        "accuracyDrop": 0.16, "parityShare": 0.17, "unjudgedShare": 0.18, "retries": 19, "varianceRatio": 1.21,
    }  # fmt: skip
    expressions = " ".join(rule["expr"] for rule in groups(thresholds=thresholds)["gvm-jobs"])
    assert all(re.search(rf"(?<![\d.]){value}(?![\d.])", expressions) for value in thresholds.values()), expressions
    assert list(yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["prometheusRule"]["thresholds"]) == (
        list(thresholds)
    )


@pytest.mark.parametrize(("resync", "limit"), [(60, "> 300"), (7.5, "> 37.5")])
def test_a_resync_is_stale_after_five_periods(resync: float, limit: str) -> None:
    found = objects({"monitoring": MONITORING, "settings": {"resyncSeconds": resync}})
    group, _ = the("PrometheusRule", found)["spec"]["groups"]
    (stale,) = (rule for rule in group["rules"] if rule["alert"] == "GVMOperatorResyncStale")
    assert stale["expr"].endswith(limit)


def test_each_dashboard_has_a_config_map_that_grafana_s_sidecar_finds() -> None:
    maps = of_kind("ConfigMap", objects({"monitoring": MONITORING}))
    held = {name: json.loads(text) for each in maps for name, text in each["data"].items()}
    committed = {path.name: json.loads(path.read_text()) for path in (CHART / "dashboards").iterdir()}
    assert held == {f"gvm-{name}": dashboard for name, dashboard in committed.items()}
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in maps)


# --- values ---


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicaCount": 2}, "replicaCount"),
        ({"settings": {"resyncSecond": 60}}, "resyncSecond"),
        ({"settings": {"resyncSeconds": 0}}, "/settings/resyncSeconds"),
        ({"settings": {"workers": "8"}}, "/settings/workers"),
        ({"settings": {"workers": 65}}, "/settings/workers"),
        ({"settings": {"logLevel": "info"}}, "/settings/logLevel"),
        ({"settings": {"healthPort": 70000}}, "/settings/healthPort"),
        ({"settings": {"logFormat": "xml"}}, "/settings/logFormat"),
        ({"settings": {"networkPolicies": "no"}}, "/settings/networkPolicies"),
        ({"images": {"rollout": {"pullPolicy": "Always"}}}, "pullPolicy"),
        ({"images": {"pullPolicy": "Sometimes"}}, "/images/pullPolicy"),
        ({"images": {"trainer": {"repository": ""}}}, "/images/trainer/repository"),
        ({"images": {"operator": {"digest": "1234"}}}, "/images/operator/digest"),
        ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
        ({"watchNamespaces": ["Red"]}, "/watchNamespaces/0"),
        ({"watchNamespaces": ["red", "red"]}, "/watchNamespaces"),
        ({"tokenKey": {"value": "short"}}, "/tokenKey/value"),
        ({"crds": {"keep": "yes"}}, "/crds/keep"),
        ({"monitoring": {"podMonitor": {"interval": "soon"}}}, "/monitoring/podMonitor/interval"),
        ({"monitoring": {"prometheusRule": {"runbookUrl": "wiki"}}}, "/monitoring/prometheusRule/runbookUrl"),
        (
            {"monitoring": {"prometheusRule": {"thresholds": {"accuracyDrop": 10}}}},
            "/monitoring/prometheusRule/thresholds/accuracyDrop",
        ),
        ({"monitoring": {"prometheusRule": {"thresholds": {"klNat": 1}}}}, "klNat"),
        ({"podLabels": {"number": 1}}, "/podLabels/number"),
        ({"rbac": {"clusterWide": True}, "watchNamespaces": ["red"]}, "watchNamespaces and rbac.clusterWide"),
        ({"watchNamespaces": []}, "set watchNamespaces to the namespaces whose jobs the operator is to run, or rbac"),
        (
            {"watchNamespaces": ["red", "gvm-system"]},
            "watchNamespaces names gvm-system, the operator's own namespace, where a job's pods could use its service "
            "account and token key: install the operator into another namespace, or set settings.serveOwnNamespace",
        ),
        (
            {"tokenKey": {"existingSecret": "mine", "value": KEY}},
            "tokenKey.existingSecret and tokenKey.value",
        ),
    ],
)
def test_a_wrong_value_is_refused_and_named(values: dict[str, Any], named: str) -> None:
    assert named in refusal(values)


def compare(schema: dict[str, Any], values: Any, path: str = "values") -> None:
    """The schema has the values' keys, no others, and says what each is for."""
    assert schema.get("description"), f"{path} has no description"
    if "properties" not in schema:
        return
    assert schema["additionalProperties"] is False, path
    assert schema["properties"].keys() - {"global"} == values.keys(), path
    for name in values:
        compare(schema["properties"][name], values[name], f"{path}.{name}")


def test_the_schema_knows_exactly_the_values_that_there_are() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(json.loads((CHART / "values.schema.json").read_text()), values)


def leaves(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        below = schema["properties"][name]
        if "properties" in below:
            yield from leaves(below, value, f"{path}{name}.")
        else:
            yield path + name, value


def test_the_install_page_lists_every_value_with_its_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    page = (ROOT / "docs/install.md").read_text().partition("## Values")[2]
    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", page, flags=re.MULTILINE))
    expected = {name: f"`{json.dumps(value)}`" for name, value in leaves(schema, values)}
    long = {name for name, default in listed.items() if default == "see values.yaml"}
    assert {name: listed[name] for name in listed if name not in long} == {
        name: default for name, default in expected.items() if name not in long
    }
    assert long == {"resources", "podSecurityContext", "securityContext"}


def test_a_parent_chart_s_global_values_are_admitted() -> None:
    assert the("Deployment", objects({"global": {"registry": "x"}}))["metadata"]["name"] == "gvm-operator"


# --- notes ---


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "kubectl rollout status -n gvm-system deployment/gvm-operator"),
        ({}, "kubectl apply -n research -f job.yaml"),
        ({}, "GVMTrainingJobs of research."),
        ({"watchNamespaces": ["red", "blue"]}, "GVMTrainingJobs of red, blue."),
        ({"rbac": {"clusterWide": True}}, "GVMTrainingJobs of all namespaces."),
        ({"rbac": {"clusterWide": True}}, "Jobs in gvm-system, the operator's own namespace, are refused"),
        ({}, "images.registry is empty"),
        ({"crds": {"enabled": False}}, "apply the CustomResourceDefinition yourself"),
        ({"monitoring": MONITORING}, "set settings.monitoringNamespace"),
    ],
)
def test_the_notes_teach_the_next_commands(values: dict[str, Any], says: str) -> None:
    assert says in texts(values)["NOTES.txt"]


@pytest.mark.parametrize(
    ("values", "omits"),
    [
        ({"images": {"registry": "registry.example"}}, "images.registry"),
        ({}, "CustomResourceDefinition yourself"),
        ({}, "are refused"),
        ({"rbac": {"clusterWide": True}, "settings": {"serveOwnNamespace": True}}, "are refused"),
        ({"monitoring": MONITORING, "settings": {"monitoringNamespace": "prom"}}, "monitoringNamespace"),
        ({"monitoring": MONITORING, "settings": {"networkPolicies": False}}, "monitoringNamespace"),
    ],
)
def test_the_notes_warn_only_of_what_is_missing(values: dict[str, Any], omits: str) -> None:
    assert omits not in texts(values)["NOTES.txt"]
