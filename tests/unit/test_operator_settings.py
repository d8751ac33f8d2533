"""The operator's settings from its environment.

none given    defaults that work in a cluster
given         each variable · lists · empty ones count as none · others are not ours
wrong         refused by the variable's name, with what it takes
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gvm_operator.network import Neighbours
from gvm_operator.settings import Settings, read_settings
from gvm_operator.site import Images


def test_without_variables_the_defaults_hold() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert settings.images == Images()
    assert settings.neighbours == Neighbours(operator="")
    assert settings.allocator_url.format(name="a", namespace="ml") == "http://a-allocator.ml.svc:8000"
    assert (settings.resync_seconds, settings.progress_seconds, settings.workers) == (60, 10, 8)
    assert (settings.health_port, settings.metrics_port) == (8080, 9090)


GIVEN: dict[str, tuple[str, Any]] = {
    "WATCH_NAMESPACES": ("ml, research ,", ("ml", "research")),
    "NAMESPACE": ("gvm-system", "gvm-system"),
    "ROLLOUT_IMAGE": ("r:1", "r:1"),
    "ALLOCATOR_IMAGE": ("a:1", "a:1"),
    "LEARNER_IMAGE": ("l:1", "l:1"),
    "IMAGE_PULL_POLICY": ("IfNotPresent", "IfNotPresent"),
    "IMAGE_PULL_SECRETS": ("one,two", ("one", "two")),
    "TOKEN_KEY_FILE": ("/run/key", Path("/run/key")),
    "ALLOCATOR_URL": ("http://127.0.0.1:8001/{namespace}/{name}", "http://127.0.0.1:8001/{namespace}/{name}"),
    "SERVE_OWN_NAMESPACE": ("true", True),
    "NETWORK_POLICIES": ("false", False),
    "MONITORING_NAMESPACE": ("monitoring", "monitoring"),
    "RESYNC_SECONDS": ("0.5", 0.5),
    "PROGRESS_SECONDS": ("2", 2.0),
    "WORKERS": ("3", 3),
    "HEALTH_PORT": ("8081", 8081),
    "METRICS_PORT": ("9091", 9091),
    "LOG_FORMAT": ("json", "json"),
    "LOG_LEVEL": ("DEBUG", "DEBUG"),
}


def test_every_setting_has_its_variable() -> None:
    assert {name.lower() for name in GIVEN} == set(Settings.model_fields)


@pytest.mark.parametrize("name", GIVEN)
def test_a_variable_sets_its_setting(name: str) -> None:
    text, value = GIVEN[name]
    settings = read_settings({f"GVM_OPERATOR_{name}": text, "PATH": "/bin", "GVM_HOST": "other"})
    assert getattr(settings, name.lower()) == value


@pytest.mark.parametrize("name", GIVEN)
def test_an_empty_variable_counts_as_none(name: str) -> None:
    assert read_settings({f"GVM_OPERATOR_{name}": ""}) == Settings()


def test_what_jobs_pods_get_is_put_together() -> None:
    settings = read_settings({f"GVM_OPERATOR_{name}": text for name, (text, _) in GIVEN.items()})
    assert settings.images == Images(
        rollout="r:1", allocator="a:1", learner="l:1", pull_policy="IfNotPresent", pull_secrets=("one", "two")
    )
    assert settings.neighbours is None
    with_policies = settings.model_copy(update={"network_policies": True})
    assert with_policies.neighbours == Neighbours(operator="gvm-system", monitoring="monitoring")


def test_no_job_is_run_in_the_operator_s_own_namespace_unless_that_is_asked_for() -> None:
    assert read_settings({"GVM_OPERATOR_NAMESPACE": "gvm-system"}).closed_namespace == "gvm-system"
    assert read_settings({}).closed_namespace == "", "outside of a cluster it has none"
    asked = {"GVM_OPERATOR_NAMESPACE": "gvm-system", "GVM_OPERATOR_SERVE_OWN_NAMESPACE": "true"}
    assert read_settings(asked).closed_namespace == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RESYNC_SECONDS", "0"),
        ("RESYNC_SECONDS", "often"),
        ("RESYNC_SECONDS", "nan"),
        ("RESYNC_SECONDS", "inf"),
        ("WORKERS", "0"),
        ("WORKERS", "65"),
        ("WORKERS", "2.5"),
        ("HEALTH_PORT", "65536"),
        ("NETWORK_POLICIES", "perhaps"),
        ("IMAGE_PULL_POLICY", "Sometimes"),
        ("LOG_LEVEL", "debug"),
        ("LOG_FORMAT", "xml"),
        ("ALLOCATOR_URL", "http://{job}:8000"),
        ("ALLOCATOR_URL", "http://{}:8000"),
        ("ALLOCATOR_URL", "http://{name:8000"),
        ("ALLOCATOR_URL", "http://{name.svc}:8000"),
        ("ALLOCATOR_URL", "http://{name}:port"),
        ("ALLOCATOR_URL", "{name}-allocator:8000"),
    ],
)
def test_a_wrong_value_is_refused_by_its_variable_s_name(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"GVM_OPERATOR_{name}: '.*' is refused: ") as caught:
        read_settings({f"GVM_OPERATOR_{name}": text})
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_variable_of_ours_is_a_typing_error_and_the_known_ones_are_told() -> None:
    with pytest.raises(ValueError, match="GVM_OPERATOR_WATCH_NAMESPACE: 'ml' is refused") as caught:
        read_settings({"GVM_OPERATOR_WATCH_NAMESPACE": "ml"})
    assert "watch_namespaces" in str(caught.value).lower()


def test_help_names_every_variable_and_starts_nothing() -> None:
    shown = subprocess.run([sys.executable, "-m", "gvm_operator", "--help"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    for name in Settings.model_fields:
        assert f"GVM_OPERATOR_{name.upper()}\n" in shown.stdout
    assert "Time between full listings" in shown.stdout
