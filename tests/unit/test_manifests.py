"""A job's children as Kubernetes objects: golden files, and what must hold of every job's children."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gvm_api import env, names, yaml_format
from gvm_api.load import load_job, validate_job
from gvm_api.spec import GVMTrainingJob
from gvm_operator import manifests
from gvm_operator.network import Neighbours, policies
from gvm_operator.site import Images, cluster_site

ROOT = Path(__file__).parents[2]
JOB_FILES = {"arithmetic": ROOT / "examples/arithmetic.yaml", "rich": ROOT / "tests/golden/rich.job.yaml"}
TOKEN = "7h3-t0k3n"
POD = {"metadata.uid": "pod-uid"}


def children_of(job: GVMTrainingJob, token: str = TOKEN) -> list[dict[str, Any]]:
    return manifests.children(
        job, cluster_site(job, Images()), token=token, neighbours=Neighbours(operator="gvm-system")
    )


def job_with(spec: dict[str, Any], name: str = "a") -> GVMTrainingJob:
    base = {"model": {"path": "m"}, "dataset": {"path": "d.jsonl"}}
    head = {"apiVersion": "gvm.rlhflow.dev/v1alpha1", "kind": "GVMTrainingJob", "metadata": {"name": name}}
    return validate_job({**head, "spec": {**base, **spec}})


@pytest.fixture(params=JOB_FILES)
def job(request: pytest.FixtureRequest) -> GVMTrainingJob:
    return load_job(JOB_FILES[request.param])


@pytest.mark.parametrize("name", JOB_FILES)
def test_the_children_are_those_of_the_golden_file(name: str, golden: Callable[[str, str], None]) -> None:
    children = children_of(load_job(JOB_FILES[name]), token="<generated>")
    golden(f"{name}.children.yaml", yaml_format.dump(*children))


def test_the_order_of_hashes_changes_nothing() -> None:
    script = (
        "import sys; from pathlib import Path; from gvm_api import yaml_format; from gvm_api.load import load_job;"
        "from gvm_operator import manifests; from gvm_operator.site import Images, cluster_site;"
        "job = load_job(Path(sys.argv[1]));"
        "print(yaml_format.dump(*manifests.children(job, cluster_site(job, Images()), token='t')))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, str(JOB_FILES["rich"])],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert "math-7b-learner" in runs[0]


def test_every_name_fits_a_dns_label_even_for_the_longest_job_name() -> None:
    for child in children_of(job_with({}, name="j" * names.MAX_JOB_NAME)):
        assert len(child["metadata"]["name"]) <= 63
        for value in child["metadata"]["labels"].values():
            assert len(value) <= 63


def test_every_child_is_in_the_job_s_namespace_and_carries_its_labels(job: GVMTrainingJob) -> None:
    children = children_of(job)
    assert len({(c["kind"], c["metadata"]["name"]) for c in children}) == len(children)
    for child in children:
        assert child["metadata"]["namespace"] == job.metadata.namespace
        assert child["metadata"]["labels"]["gvm.rlhflow.dev/job"] == job.metadata.name
        assert child["metadata"]["labels"]["app.kubernetes.io/instance"] == job.metadata.name


def test_every_pod_meets_the_restricted_pod_security_standard(job: GVMTrainingJob) -> None:
    children = children_of(job)
    for role, workload in workloads(children).items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        own = pod["containers"][0]["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"]["drop"] == ["ALL"]
        assert own["readOnlyRootFilesystem"] is True
        mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
        assert "/tmp" in mounts, "the one place that every container may write to"
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in mounts.values()} <= volumes, role


def test_servers_see_the_run_directory_only_where_they_fetch_weights_from_it_and_cannot_write_to_it() -> None:
    def run_mounts(backend: str) -> list[dict[str, Any]]:
        containers = manifests.main_containers(children_of(job_with({"weightSync": {"backend": backend}})))
        return [mount for mount in containers["rollout"]["volumeMounts"] if mount["name"] == "run"]

    assert run_mounts("http") == []
    assert run_mounts("filesystem") == [{"name": "run", "mountPath": "/gvm/run", "readOnly": True}]


def ingress(job: GVMTrainingJob, role: str, neighbours: Neighbours) -> list[tuple[set[str], set[int] | None]]:
    """Who may come in, by role or namespace, and at which ports (None for all)."""

    def peer(source: dict[str, Any]) -> str:
        if "namespaceSelector" in source:
            return str(source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
        return str(source["podSelector"]["matchLabels"]["app.kubernetes.io/component"])

    (policy,) = (p for p in policies(job, neighbours) if p["metadata"]["name"] == f"{job.metadata.name}-{role}")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == role
    return [
        ({peer(s) for s in rule["from"]}, {p["port"] for p in rule["ports"]} if "ports" in rule else None)
        for rule in policy["spec"]["ingress"]
    ]


def test_only_the_learner_reaches_the_servers_whose_endpoints_can_replace_the_weights() -> None:
    job, alone = job_with({}), Neighbours(operator="gvm-system")
    watched = Neighbours(operator="gvm-system", monitoring="monitoring")
    assert ingress(job, "rollout", alone) == [({"learner"}, {8000})]
    assert ingress(job, "rollout", watched) == [({"learner", "monitoring"}, {8000})]
    assert ingress(job, "allocator", alone) == [({"learner", "gvm-system"}, {8000})]
    assert ingress(job, "learner", alone) == [({"learner"}, None), ({"rollout"}, {8001})]
    assert ingress(job, "learner", watched)[2:] == [({"monitoring"}, {8000})]


def test_nccl_connects_servers_and_learner_on_ports_of_its_choice() -> None:
    gpu = {"limits": {"nvidia.com/gpu": 1}}
    spec = {"weightSync": {"backend": "nccl"}, "rollout": {"resources": gpu}, "learner": {"resources": gpu}}
    job, neighbours = job_with(spec), Neighbours(operator="gvm-system")
    assert ingress(job, "learner", neighbours) == [({"learner", "rollout"}, None)]
    assert ingress(job, "rollout", neighbours)[0] == ({"learner", "rollout"}, None)


def test_a_disruption_budget_is_made_for_the_roles_that_ask_for_one() -> None:
    job = job_with({"learner": {"maxUnavailable": 0}})
    (budget,) = (c for c in children_of(job) if c["kind"] == "PodDisruptionBudget")
    assert budget["metadata"]["name"] == "a-learner"
    assert budget["spec"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == "learner"


def test_each_attempt_of_the_gang_is_a_job_of_its_own_that_meets_at_its_own_host() -> None:
    job = job_with({"learner": {"replicas": 2}})
    site = cluster_site(job, Images(), attempt=3)
    learner = manifests.learner_job(job, site, 3)
    assert learner["metadata"]["name"] == "a-learner-3"
    assert learner["metadata"]["labels"]["gvm.rlhflow.dev/attempt"] == "3"
    template = learner["spec"]["template"]
    assert template["metadata"]["labels"]["gvm.rlhflow.dev/attempt"] == "3"
    assert "hostname" not in template["spec"], "an Indexed Job numbers the hosts"
    variables = {e["name"]: e.get("value") for e in template["spec"]["containers"][0]["env"]}
    assert variables[env.RENDEZVOUS_HOST] == variables[env.WEIGHTS_HOST] == "a-learner-3-0.a-learner.default.svc"


def test_services_and_deployments_select_the_pods_of_their_role_only(job: GVMTrainingJob) -> None:
    children = children_of(job)
    pods = {role: c["spec"]["template"]["metadata"]["labels"] for role, c in workloads(children).items()}
    assert sorted(pods) == ["allocator", "learner", "rollout"]
    for child in children:
        selector = child.get("spec", {}).get("selector") or child.get("spec", {}).get("podSelector")
        if selector is None:
            continue
        wanted = selector.get("matchLabels", selector)
        chosen = [role for role, labels in pods.items() if wanted.items() <= labels.items()]
        assert chosen == [child["metadata"]["labels"]["app.kubernetes.io/component"]]


def workloads(children: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        c["metadata"]["labels"]["app.kubernetes.io/component"]: c
        for c in children
        if c["kind"] in ("Deployment", "Job")
    }


def resolved(container: dict[str, Any], children: list[dict[str, Any]]) -> dict[str, str]:
    """The environment as the kubelet makes it; references to the users' own objects are left out."""
    secrets = {c["metadata"]["name"]: c["stringData"] for c in children if c["kind"] == "Secret"}
    variables = {}
    for entry in container["env"]:
        if "value" in entry:
            variables[entry["name"]] = entry["value"]
        elif (field := entry["valueFrom"].get("fieldRef")) is not None:
            variables[entry["name"]] = POD[field["fieldPath"]]
        elif (reference := entry["valueFrom"]["secretKeyRef"])["name"] in secrets:
            variables[entry["name"]] = secrets[reference["name"]][reference["key"]]
    return variables


def test_a_pod_that_is_told_to_go_while_it_loads_does_not_sit_out_its_grace_period(job: GVMTrainingJob) -> None:
    """As process 1, a program without a handler for SIGTERM would ignore it."""
    for workload in workloads(children_of(job)).values():
        assert workload["spec"]["template"]["spec"]["shareProcessNamespace"] is True


def test_the_learner_finds_every_variable_that_it_reads(job: GVMTrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    children = children_of(job)
    container = manifests.main_containers(children)["learner"]
    for name, value in resolved(container, children).items():
        monkeypatch.setenv(name, value)
    settings = env.learner_env()
    assert settings.learner_id == "pod-uid", "another one's word is not this one's"
    assert settings.allocator_token == TOKEN
    assert settings.rollout_urls[0].startswith("dns+http://")
    services = {c["metadata"]["name"]: c["spec"]["ports"] for c in children if c["kind"] == "Service"}
    name, namespace = job.metadata.name, job.metadata.namespace
    assert (
        settings.allocator_url == f"http://{name}-allocator.{namespace}.svc:{services[f'{name}-allocator'][0]['port']}"
    )
    learner_ports = {p["name"]: p["port"] for p in services[f"{name}-learner"]}
    assert settings.weights_port == learner_ports["weights"]
    assert env.require_port(env.RENDEZVOUS_PORT) == learner_ports["rendezvous"]
    # The host of rank 0: the Job's pods are named NAME-INDEX under the subdomain.
    assert env.require(env.RENDEZVOUS_HOST) == f"{name}-learner-0-0.{name}-learner.{namespace}.svc"
    learner = workloads(children)["learner"]
    assert learner["metadata"]["name"] == f"{name}-learner-0"
    assert learner["spec"]["template"]["spec"]["subdomain"] == f"{name}-learner"
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert {str(settings.run_dir.parent), str(settings.job_file.parent)} <= mounts
    assert settings.run_dir.name == job.metadata.name, "jobs may share a volume"
    (job_map,) = (c for c in children if c["kind"] == "ConfigMap")
    assert settings.job_file.name in job_map["data"]


def test_the_allocator_and_the_servers_find_every_variable_that_they_read(job: GVMTrainingJob) -> None:
    children = children_of(job)
    containers = manifests.main_containers(children)
    allocator = resolved(containers["allocator"], children)
    assert {env.HOST, env.PORT, env.RUN_DIR, env.NAMESPACE, env.ALLOCATOR_TOKEN} <= allocator.keys()
    assert allocator[env.NAMESPACE] == job.metadata.namespace
    rollout = resolved(containers["rollout"], children)
    assert rollout["VLLM_SERVER_DEV_MODE"] == "1", "weight transfer needs vLLM's development endpoints"
    for role in ("allocator", "rollout"):
        variables, container = resolved(containers[role], children), containers[role]
        assert container["ports"][0]["containerPort"] == int(variables[env.PORT])
        assert variables[env.HOST] == "0.0.0.0"
        used = [part for part in container["command"] if "$(" in part]
        assert all(part[2:-1] in variables for part in used)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (s for item in value.items() for part in item for s in strings(part))
    elif isinstance(value, list):
        yield from (s for item in value for s in strings(item))
    else:
        yield str(value)


def test_the_token_is_in_the_secret_and_nowhere_else(job: GVMTrainingJob) -> None:
    holders = [c["kind"] for c in children_of(job) if any(TOKEN in s for s in strings(c))]
    assert holders == ["Secret"]


def test_only_the_allocator_and_the_learner_are_given_the_token(job: GVMTrainingJob) -> None:
    containers = manifests.main_containers(children_of(job))
    given = {role for role, c in containers.items() if any(e["name"] == env.ALLOCATOR_TOKEN for e in c["env"])}
    assert given == {"allocator", "learner"}


def test_no_pod_can_use_the_api_server(job: GVMTrainingJob) -> None:
    for workload in workloads(children_of(job)).values():
        assert workload["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_config_map_holds_the_job_as_it_was_given(job: GVMTrainingJob) -> None:
    (config,) = (c for c in children_of(job) if c["kind"] == "ConfigMap")
    (document,) = yaml_format.load_all(config["data"]["job.yaml"])
    read = validate_job(document)
    assert read.spec == job.spec
    assert (read.metadata.name, read.metadata.namespace) == (job.metadata.name, job.metadata.namespace)


def test_the_rich_job_s_wishes_reach_its_pods() -> None:
    children = workloads(children_of(load_job(JOB_FILES["rich"])))
    pods = children["rollout"]["spec"]["template"]["spec"]
    vllm, sidecar = pods["containers"]
    assert vllm["image"] == "registry.example/rollout:1.2"
    assert vllm["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert vllm["envFrom"] == [{"configMapRef": {"name": "proxy"}}]
    values = {e["name"]: e.get("value") for e in vllm["env"]}
    assert values["VLLM_NO_USAGE_STATS"] == "0", "the user's own value wins, and stands once"
    assert len(values) == len(vllm["env"])
    assert values["NCCL_DEBUG"] == "INFO"
    mounts = {m["mountPath"]: m["name"] for m in vllm["volumeMounts"]}
    assert mounts == {"/tmp": "tmp", "/dev/shm": "shm", "/cache": "cache", "/models": "run"}
    assert sidecar == {"name": "sidecar", "image": "registry.example/logs:1"}
    assert pods["terminationGracePeriodSeconds"] == 60
    assert pods["volumes"][0] == {"name": "run", "persistentVolumeClaim": {"claimName": "shared-runs"}}
    command = vllm["command"]
    assert command[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    flags = dict(itertools.pairwise(command))
    assert flags["--dtype"] == "bfloat16"
    assert flags["--tensor-parallel-size"] == "2"
    assert flags["--max-model-len"] == str(1024 + 4096), "the evaluation's responses fit, too"
    assert flags["--gpu-memory-utilization"] == "0.85"
    assert json.loads(flags["--weight-transfer-config"]) == {"backend": "nccl"}
    assert "--enable-prefix-caching" in command
    assert "--no-enable-log-requests" not in command
    learner = children["learner"]["spec"]
    assert (learner["completions"], learner["parallelism"], learner["backoffLimit"]) == (2, 2, 0)
    assert learner["template"]["spec"]["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
    }
    shm = next(v for v in learner["template"]["spec"]["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}


def test_an_existing_claim_or_a_volume_replaces_the_claim() -> None:
    def kinds_and_run_volume(storage: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        children = children_of(job_with({"storage": storage}))
        volumes = workloads(children)["learner"]["spec"]["template"]["spec"]["volumes"]
        return any(c["kind"] == "PersistentVolumeClaim" for c in children), volumes[0]

    assert kinds_and_run_volume({}) == (True, {"name": "run", "persistentVolumeClaim": {"claimName": "a-run"}})
    assert kinds_and_run_volume({"existingClaim": "x"}) == (
        False,
        {"name": "run", "persistentVolumeClaim": {"claimName": "x"}},
    )
    assert kinds_and_run_volume({"volume": {"hostPath": {"path": "/data"}}}) == (
        False,
        {"name": "run", "hostPath": {"path": "/data"}},
    )


def test_the_claim_takes_size_class_and_modes() -> None:
    storage = {"size": "2Ti", "storageClassName": "fast", "accessModes": ["ReadWriteOnce"]}
    (claim,) = (c for c in children_of(job_with({"storage": storage})) if c["kind"] == "PersistentVolumeClaim")
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "2Ti"}},
        "storageClassName": "fast",
    }


def test_rendering_leaves_the_job_and_earlier_children_as_they_were() -> None:
    job = load_job(JOB_FILES["rich"])
    before = json.dumps(job.model_dump(mode="json"))
    first = children_of(job)
    text = yaml_format.dump(*first)
    children_of(job)
    assert yaml_format.dump(*first) == text
    assert json.dumps(job.model_dump(mode="json")) == before
