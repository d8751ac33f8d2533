"""The CustomResourceDefinition on a real API server: admitted, defaulted, refused, listed.

Uses the cluster that KUBECONFIG names, in a namespace of its own; skips without one.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"),
        reason="needs kubectl and a cluster named by KUBECONFIG",
    ),
]

ROOT = Path(__file__).parents[2]


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--request-timeout=20s", *arguments], input=stdin, text=True, capture_output=True, timeout=60
    )


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"gvm-test-{uuid.uuid4().hex[:8]}"
    # An old API server does not know every keyword of a schema's validation; it validates what it admits itself.
    applied = kubectl("apply", "--validate=false", "-f", str(ROOT / "crds/gvmtrainingjobs.yaml"))
    assert applied.returncode == 0, applied.stderr
    waited = kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/gvmtrainingjobs.gvm.rlhflow.dev")
    assert waited.returncode == 0, waited.stderr
    assert kubectl("create", "namespace", name).returncode == 0
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def example(**changes: Any) -> str:
    job = yaml.safe_load((ROOT / "examples/arithmetic.yaml").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = job["spec"]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return yaml.safe_dump(job)


def test_a_schema_without_faults_is_accepted_as_structural(namespace: str) -> None:
    found = json.loads(kubectl("get", "crd", "gvmtrainingjobs.gvm.rlhflow.dev", "-o", "json").stdout)
    conditions = {c["type"]: (c["status"], c.get("message")) for c in found["status"]["conditions"]}
    assert conditions["Established"][0] == "True"
    assert conditions.get("NonStructuralSchema", ("False", ""))[0] == "False", conditions["NonStructuralSchema"]
    assert kubectl("get", "gvmjobs", "-n", namespace).returncode == 0


def test_the_example_is_admitted_and_defaulted(namespace: str) -> None:
    applied = kubectl("apply", "-n", namespace, "-f", "-", stdin=example())
    assert applied.returncode == 0, applied.stderr
    job = json.loads(kubectl("get", "gvmjob", "arithmetic", "-n", namespace, "-o", "json").stdout)
    assert job["spec"]["algorithm"]["clipLow"] == 0.2
    assert job["spec"]["runPolicy"]["backoffLimit"] == 3
    assert "Phase" in kubectl("get", "gvmjobs", "-n", namespace).stdout.title()


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("algorithm__name", "ppo", "spec.algorithm.name"),
        ("allocation__alpha", -1, "spec.allocation.alpha"),
        ("learner__learningRate", 0, "spec.learner.learningRate"),
        ("learner__zeroStage", 4, "spec.learner.zeroStage"),
        ("rollout__replicas", "many", "spec.rollout.replicas"),
        ("model__path", "", "spec.model.path"),
    ],
)
def test_a_wrong_value_is_refused_and_the_field_is_named(namespace: str, path: str, value: object, names: str) -> None:
    applied = kubectl("apply", "-n", namespace, "--validate=false", "-f", "-", stdin=example(**{path: value}))
    assert applied.returncode != 0
    assert names in applied.stderr


def test_explain_teaches(namespace: str) -> None:
    del namespace
    explained = kubectl("explain", "gvmjob.spec.allocation")
    assert explained.returncode == 0, explained.stderr
    assert "samplesPerPrompt" in explained.stdout
    assert "pilot included" in explained.stdout
