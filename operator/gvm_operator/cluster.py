"""The only module that talks to the Kubernetes API, by the official client's transport.

Objects go in and out as dictionaries: the client's typed models would drop fields that they do not know. Every request
has a timeout, is tried again a few times where that is safe, and is counted.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config

from gvm_api.spec import API_VERSION, KIND
from gvm_operator.labels import JOB_LABEL

logger = logging.getLogger(__name__)

Manifest = dict[str, Any]
OnRequest = Callable[[str, str, int], None]
"""Called after each request with verb, resource and HTTP code (0 for none)."""

RESOURCES = {
    KIND: f"apis/{API_VERSION}/gvmtrainingjobs",
    "ConfigMap": "api/v1/configmaps",
    "Secret": "api/v1/secrets",
    "Service": "api/v1/services",
    "PersistentVolumeClaim": "api/v1/persistentvolumeclaims",
    "Pod": "api/v1/pods",
    "Event": "api/v1/events",
    "Deployment": "apis/apps/v1/deployments",
    "Job": "apis/batch/v1/jobs",
    "NetworkPolicy": "apis/networking.k8s.io/v1/networkpolicies",
    "PodDisruptionBudget": "apis/policy/v1/poddisruptionbudgets",
}
CHILD_KINDS = (
    "ConfigMap",
    "Service",
    "PersistentVolumeClaim",
    "Pod",
    "Deployment",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
)
"""What the operator looks at. Secrets are not among it."""

_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_PAGE = 500
_RETRIES = urllib3.Retry(
    total=4,
    connect=4,
    read=2,
    backoff_factor=0.25,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,  # a creation that came through is answered by 409 the second time, a merge patch is the same
    raise_on_status=False,
)


class ClusterError(RuntimeError):
    """The API server did not do what was asked. `code` is the HTTP status, 0 where it did not answer."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Objects of a kind, and the resource version as of which they are all of them."""

    items: list[Manifest]
    resource_version: int


def connect() -> client.ApiClient:
    """A client by the pod's service account, or by KUBECONFIG (~/.kube/config) outside of a cluster.

    Raises:
        ValueError: neither names a cluster.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise ValueError(f"no cluster is named ({error}); set KUBECONFIG to a kubeconfig file") from error
    if not configuration.verify_ssl:  # the kubeconfig says so; once is enough to be told
        logger.warning("certificates of %s are not verified (insecure-skip-tls-verify)", configuration.host)
    configuration.retries = _RETRIES
    configuration.connection_pool_maxsize = 32
    return _client(configuration)


def connect_as_user() -> tuple[client.ApiClient, str]:
    """A client as kubectl makes it: by KUBECONFIG (~/.kube/config), and where there is none by the pod's account.

    Returns:
        The client, and the namespace that the context names; `default` where it names none.

    Raises:
        ValueError: neither names a cluster, or the kubeconfig cannot be used.
    """
    configuration = client.Configuration()
    files = os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(file and Path(file).expanduser().exists() for file in files.split(os.pathsep)):
        namespace = _service_account(configuration, missing=files)
    else:
        try:
            config.load_kube_config(config_file=files, client_configuration=configuration)
            _, context = config.list_kube_config_contexts(config_file=files)
        # The parser trips over a file that is no kubeconfig in as many ways as there are files.
        except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"kubeconfig {files} cannot be used: {error}") from error
        namespace = context["context"].get("namespace") or "default"
    configuration.retries = _RETRIES.new(total=1, connect=1, read=1)  # somebody is waiting
    return _client(configuration), namespace


def _service_account(configuration: client.Configuration, *, missing: str) -> str:
    try:
        config.load_incluster_config(client_configuration=configuration)
        return _ACCOUNT_NAMESPACE.read_text().strip()
    except (config.ConfigException, OSError) as error:
        raise ValueError(f"there is no kubeconfig at {missing}; set KUBECONFIG to a kubeconfig file") from error


def _client(configuration: client.Configuration) -> client.ApiClient:
    if not configuration.verify_ssl:  # it would warn at every request
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return client.ApiClient(configuration)


class Cluster:
    """Requests of one operator or command line.

    Args:
        api: the connection.
        namespaces: which to look at; empty for all.
        on_request: told of every request.
    """

    def __init__(
        self,
        api: client.ApiClient,
        *,
        namespaces: Sequence[str] = (),
        on_request: OnRequest | None = None,
    ) -> None:
        self._api = api
        self._namespaces = tuple(namespaces)
        self._on_request = on_request

    def list(self, kind: str) -> Listing:
        """All objects of a kind that are a job's, or the jobs themselves.

        Raises:
            ClusterError: the API server refuses, or does not know the kind (404).
        """
        pages = [self._list(kind, namespace) for namespace in self._namespaces or [""]]
        return Listing(
            items=[item for page in pages for item in page.items],
            resource_version=min(page.resource_version for page in pages),
        )

    def _list(self, kind: str, namespace: str) -> Listing:
        selector = {} if kind == KIND else {"labelSelector": JOB_LABEL}
        items: list[Manifest] = []
        token, version = "", 0
        while True:
            query: dict[str, Any] = {"limit": _PAGE, **selector, **({"continue": token} if token else {})}
            page = self._request("GET", "list", kind, _path(kind, namespace), query=query)
            found: list[Manifest] = page.get("items") or []
            items += [{**item, "kind": kind, "apiVersion": page["apiVersion"]} for item in found]
            # The first page's version: what changed since is told by the watch.
            version = version or int(page["metadata"]["resourceVersion"])
            token = page["metadata"].get("continue") or ""
            if not token:
                return Listing(items=items, resource_version=version)

    def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """One object.

        Raises:
            ClusterError: code 404 where there is none.
        """
        return self._request("GET", "get", kind, _path(kind, namespace, name))

    def events_of(self, manifest: Manifest) -> tuple[Manifest, ...]:
        """Events that were recorded of an object, in no order.

        Raises:
            ClusterError: the API server refuses.
        """
        metadata = manifest["metadata"]
        query = {"fieldSelector": f"involvedObject.uid={metadata['uid']}"}  # not those of an earlier one of its name
        page = self._request("GET", "list", "Event", _path("Event", metadata["namespace"]), query=query)
        return tuple(page.get("items") or ())

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object.

        Raises:
            ClusterError: code 409 where one of this name exists.
        """
        kind, namespace = manifest["kind"], manifest["metadata"]["namespace"]
        return self._request("POST", "create", kind, _path(kind, namespace), body=manifest)

    def patch(self, kind: str, namespace: str, name: str, change: Manifest) -> Manifest:
        """Apply a JSON merge patch.

        Raises:
            ClusterError: the API server refuses.
        """
        return self._request("PATCH", "patch", kind, _path(kind, namespace, name), body=change)

    def patch_status(self, job: Manifest, status: Manifest) -> Manifest:
        """Write a job's status, unless the job has changed since it was read.

        Raises:
            ClusterError: code 409 where it has.
        """
        metadata = job["metadata"]
        path = f"{_path(KIND, metadata['namespace'], metadata['name'])}/status"
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status}
        return self._request("PATCH", "patch", f"{KIND}/status", path, body=body)

    def delete(self, kind: str, namespace: str, name: str, *, uid: str = "") -> None:
        """Delete an object, and in the background what it owns; one that is gone, or another by now, is left alone.

        Raises:
            ClusterError: the API server refuses.
        """
        body: Manifest = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._request("DELETE", "delete", kind, _path(kind, namespace, name), body=body)
        except ClusterError as error:
            if error.code not in (404, 409):
                raise

    def record(self, event: Manifest) -> None:
        """Record an Event; one that is there already is counted once more.

        Raises:
            ClusterError: the API server refuses.
        """
        try:
            self.create(event)
        except ClusterError as error:
            if error.code != 409:
                raise
            namespace, name = event["metadata"]["namespace"], event["metadata"]["name"]
            known = self.get("Event", namespace, name)
            change = {"count": (known.get("count") or 1) + 1, "lastTimestamp": event["lastTimestamp"]}
            self.patch("Event", namespace, name, change)

    def _request(
        self,
        method: str,
        verb: str,
        resource: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Manifest | None = None,
    ) -> Manifest:
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        code = 0
        try:
            serialized = self._api.param_serialize(
                method,
                f"/{path}",
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(*serialized, _request_timeout=(_CONNECT_SECONDS, _READ_SECONDS))
            code, content = response.status, response.read()
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            raise ClusterError(
                0, "Unreachable", f"{verb} {resource}: the API server does not answer ({error})"
            ) from error
        finally:
            if self._on_request is not None:
                self._on_request(verb, resource, code)
        return _answer(code, content, verb, resource)


def _answer(code: int, content: bytes, verb: str, resource: str) -> Manifest:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None  # e.g. the page of a proxy
    if not isinstance(answer, dict):
        text = content[:200].decode(errors="replace")
        raise ClusterError(code, "NotJson", f"{verb} {resource}: HTTP {code}: {text}")
    if code >= 400:
        raise ClusterError(code, answer.get("reason") or str(code), answer.get("message") or f"HTTP {code}")
    return answer


def _path(kind: str, namespace: str, name: str = "") -> str:
    """/apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL/NAME, each part where it is given."""
    base, _, plural = RESOURCES[kind].rpartition("/")
    scope = f"{base}/namespaces/{namespace}" if namespace else base
    return f"{scope}/{plural}" + (f"/{name}" if name else "")
