"""kopf's part: watches that keep the controller's cache fresh and wake the job that an object belongs to.

Only `on.event` handlers: kopf then writes nothing itself, neither annotations nor finalizers, so that a job can be
deleted while no operator runs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from gvm_api.spec import API_VERSION, KIND
from gvm_operator.controller import Controller
from gvm_operator.labels import JOB_LABEL
from gvm_operator.observed import Manifest

_CHILDREN = (
    ("v1", "configmaps", "ConfigMap"),
    ("v1", "services", "Service"),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("v1", "pods", "Pod"),
    ("apps/v1", "deployments", "Deployment"),
    ("batch/v1", "jobs", "Job"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
)
"""PodDisruptionBudgets are left to the full listing: not every cluster serves policy/v1."""


def registry(controller: Controller) -> kopf.OperatorRegistry:
    """Handlers that feed a controller."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, errors=kopf.ErrorsMode.PERMANENT)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=handlers)
    async def start(**_: Any) -> None:
        await controller.start()

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        await controller.stop()

    @kopf.on.probe(registry=handlers, id="seconds_since_resync", errors=kopf.ErrorsMode.PERMANENT)
    async def seconds_since_resync(**_: Any) -> float:
        if controller.is_stale:
            raise RuntimeError(f"no full listing for {controller.seconds_since_resync:.0f} s")
        return controller.seconds_since_resync

    kopf.on.event(API_VERSION, "gvmtrainingjobs", registry=handlers, id=KIND)(_telling(controller, KIND))
    for version, plural, kind in _CHILDREN:
        has_label = {JOB_LABEL: kopf.PRESENT}
        kopf.on.event(version, plural, labels=has_label, registry=handlers, id=kind)(_telling(controller, kind))
    return handlers


def _telling(controller: Controller, kind: str) -> Callable[..., Any]:
    async def tell(*, event: Mapping[str, Any], **_: Any) -> None:
        manifest: Manifest = {**event["object"], "kind": kind}
        if event["type"] == "DELETED":
            controller.lost(manifest)
        else:
            controller.saw(manifest)

    return tell


def settings() -> kopf.OperatorSettings:
    """kopf's settings."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # what is served is known, and looking for more needs cluster-wide rights
    settings.posting.enabled = False  # our own events are deduplicated
    settings.persistence.finalizer = "gvm.rlhflow.dev/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="gvm.rlhflow.dev")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="gvm.rlhflow.dev")
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.queueing.worker_limit = 64
    for version, plural, _ in _CHILDREN:
        settings.watching.label_selectors[version, plural] = JOB_LABEL
    return settings
