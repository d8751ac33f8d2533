"""Requests to the Kubernetes API, against a small HTTP server that answers what it is told to.

paths        every kind · one namespace, several, all · the status · names
lists        pages · label selector · versions
changes      JSON and merge patches, nulls included · preconditions · what is gone already
answers      an error's code, reason and message · no JSON · JSON that is no object · cut off · none at all
again        429 and 503, with and without Retry-After · not 500, not 409 · in the end the last answer
counted      every request, by verb, resource and code
connection   kubeconfig good, broken, missing · token · timeouts
"""

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml
from kubernetes import client, config

from gvm_operator.cluster import CHILD_KINDS, RESOURCES, Cluster, ClusterError, connect, connect_as_user

JOB = "GVMTrainingJob"


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Server(ThreadingHTTPServer):
    """Gives the answers in its list, one a request, the last one for ever; notes what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []
        self.answers: list[tuple[int, Any, dict[str, str]]] = [(200, {}, {})]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def will_answer(self, *answers: Any) -> None:
        """Each a body, a code and a body, or a code, a body and headers."""
        self.answers = [(200, answer, {}) if not isinstance(answer, tuple) else (*answer, {})[:3] for answer in answers]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        url = urlsplit(self.path)
        body = json.loads(text) if text else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
        answers = self.server.answers
        code, content, more = answers.pop(0) if len(answers) > 1 else answers[0]
        if code == 0:  # hang up
            self.close_connection = True
            return
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(sent)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PATCH(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        """Not on the tests' output."""


@pytest.fixture
def server(serve: Callable[[Server], Server]) -> Server:
    return serve(Server())


def kubeconfig(path: Path, url: str, namespace: str = "", **user: Any) -> Path:
    context = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": context}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def api(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[client.ApiClient]:
    """The operator's own connection."""
    path = kubeconfig(tmp_path / "config", server.url, token="s3cr3t")
    # The client reads KUBECONFIG when it is imported.
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    with connect() as api:
        yield api


@pytest.fixture
def counted() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
def cluster(api: client.ApiClient, counted: list[tuple[str, str, int]]) -> Cluster:
    return Cluster(api, on_request=lambda *request: counted.append(request))


def refusal(code: int, reason: str, message: str = "no") -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def page(*names: str, version: int = 7, more: str = "") -> dict[str, Any]:
    metadata = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
    items = [{"metadata": {"name": name, "namespace": "ml"}} for name in names]
    return {"apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": metadata, "items": items}


# --- paths ------------------------------------------------------------------------------------------------------

PATHS = {
    "GVMTrainingJob": "/apis/gvm.rlhflow.dev/v1alpha1/namespaces/ml/gvmtrainingjobs/x",
    "ConfigMap": "/api/v1/namespaces/ml/configmaps/x",
    "Secret": "/api/v1/namespaces/ml/secrets/x",
    "Service": "/api/v1/namespaces/ml/services/x",
    "PersistentVolumeClaim": "/api/v1/namespaces/ml/persistentvolumeclaims/x",
    "Pod": "/api/v1/namespaces/ml/pods/x",
    "Event": "/api/v1/namespaces/ml/events/x",
    "Deployment": "/apis/apps/v1/namespaces/ml/deployments/x",
    "Job": "/apis/batch/v1/namespaces/ml/jobs/x",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/ml/networkpolicies/x",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/ml/poddisruptionbudgets/x",
}


def test_every_kind_has_a_path() -> None:
    assert PATHS.keys() == RESOURCES.keys()
    assert set(CHILD_KINDS) <= RESOURCES.keys()
    assert "Secret" not in CHILD_KINDS


@pytest.mark.parametrize("kind", PATHS)
def test_an_object_is_asked_for_at_its_kind_s_path(server: Server, cluster: Cluster, kind: str) -> None:
    server.will_answer({"kind": kind, "metadata": {"name": "x"}, "a field of the future": [1]})
    assert cluster.get(kind, "ml", "x")["a field of the future"] == [1]
    (request,) = server.requests
    assert (request.method, request.path, request.query) == ("GET", PATHS[kind], {})


def test_an_object_is_made_in_its_own_namespace(server: Server, cluster: Cluster) -> None:
    manifest = {"kind": "Job", "metadata": {"name": "x", "namespace": "ml"}, "spec": {"completions": 2}}
    server.will_answer((201, manifest))
    assert cluster.create(manifest) == manifest
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/apis/batch/v1/namespaces/ml/jobs")
    assert (request.body, request.headers["content-type"]) == (manifest, "application/json")


# --- lists ------------------------------------------------------------------------------------------------------


def test_a_list_is_read_page_by_page_and_is_as_of_its_first_page(server: Server, cluster: Cluster) -> None:
    server.will_answer(page("a", "b", version=7, more="next/1"), page("c", version=9, more="n2"), page(version=11))
    listing = cluster.list("Deployment")
    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b", "c"]
    assert {(item["kind"], item["apiVersion"]) for item in listing.items} == {("Deployment", "apps/v1")}
    assert listing.resource_version == 7, "a later page's would make newer objects look lost"
    assert [request.query.get("continue") for request in server.requests] == [None, "next/1", "n2"]
    assert {request.query["limit"] for request in server.requests} == {"500"}
    assert {request.path for request in server.requests} == {"/apis/apps/v1/deployments"}


def test_only_what_belongs_to_jobs_is_listed(server: Server, cluster: Cluster) -> None:
    server.will_answer(page())
    cluster.list("Pod")
    cluster.list(JOB)
    pods, jobs = server.requests
    assert pods.query["labelSelector"] == "gvm.rlhflow.dev/job"
    assert "labelSelector" not in jobs.query


def test_several_namespaces_are_listed_one_by_one_and_the_list_is_as_old_as_the_oldest(
    server: Server, api: client.ApiClient
) -> None:
    server.will_answer(page("a", version=12), page("b", version=9))
    listing = Cluster(api, namespaces=["one", "two"]).list("Service")
    assert [request.path for request in server.requests] == [
        "/api/v1/namespaces/one/services",
        "/api/v1/namespaces/two/services",
    ]
    assert ([item["metadata"]["name"] for item in listing.items], listing.resource_version) == (["a", "b"], 9)


def test_an_empty_list_has_no_items(server: Server, cluster: Cluster) -> None:
    server.will_answer({**page(), "items": None})
    assert cluster.list("Pod").items == []


def test_a_list_whose_continuation_has_expired_fails_as_a_whole(server: Server, cluster: Cluster) -> None:
    server.will_answer(page("a", more="old"), refusal(410, "Expired"))
    with pytest.raises(ClusterError) as caught:
        cluster.list("Pod")
    assert (caught.value.code, caught.value.reason) == (410, "Expired")


def test_the_events_of_one_object_are_asked_for_by_its_uid(server: Server, cluster: Cluster) -> None:
    server.will_answer({"items": [{"reason": "Started"}]})
    found = cluster.events_of({"metadata": {"name": "a", "namespace": "ml", "uid": "u-1"}})
    assert found == ({"reason": "Started"},)
    assert server.requests[0].query == {"fieldSelector": "involvedObject.uid=u-1"}
    assert server.requests[0].path == "/api/v1/namespaces/ml/events"


# --- changes ----------------------------------------------------------------------------------------------------


def test_a_change_is_a_merge_patch_and_its_nulls_arrive(server: Server, cluster: Cluster) -> None:
    cluster.patch("Deployment", "ml", "x", {"spec": {"replicas": 3, "paused": None}})
    (request,) = server.requests
    assert (request.method, request.path) == ("PATCH", PATHS["Deployment"])
    assert request.headers["content-type"] == "application/merge-patch+json"
    assert request.body == {"spec": {"replicas": 3, "paused": None}}


def test_a_status_is_written_only_on_the_version_that_was_read(server: Server, cluster: Cluster) -> None:
    job = {"metadata": {"name": "x", "namespace": "ml", "resourceVersion": "41"}, "status": {"phase": "Pending"}}
    cluster.patch_status(job, {"phase": "Running", "accuracy": None})
    (request,) = server.requests
    assert (request.method, request.path) == ("PATCH", f"{PATHS[JOB]}/status")
    assert request.headers["content-type"] == "application/merge-patch+json"
    assert request.body == {
        "metadata": {"resourceVersion": "41"},
        "status": {"phase": "Running", "accuracy": None},
    }


def test_a_deletion_takes_what_is_owned_along_and_spares_a_successor(server: Server, cluster: Cluster) -> None:
    cluster.delete("Job", "ml", "x", uid="u-1")
    cluster.delete("Secret", "ml", "x")
    first, second = server.requests
    assert (first.method, first.path) == ("DELETE", PATHS["Job"])
    assert first.body == {"propagationPolicy": "Background", "preconditions": {"uid": "u-1"}}
    assert second.body == {"propagationPolicy": "Background"}


@pytest.mark.parametrize(("code", "reason"), [(404, "NotFound"), (409, "Conflict")])
def test_what_is_gone_or_another_by_now_counts_as_deleted(
    server: Server, cluster: Cluster, code: int, reason: str
) -> None:
    server.will_answer(refusal(code, reason))
    cluster.delete("Job", "ml", "x", uid="u-1")
    assert len(server.requests) == 1


def test_a_deletion_that_is_forbidden_fails(server: Server, cluster: Cluster) -> None:
    server.will_answer(refusal(403, "Forbidden"))
    with pytest.raises(ClusterError):
        cluster.delete("Job", "ml", "x")


EVENT = {
    "kind": "Event",
    "metadata": {"name": "a.0123", "namespace": "ml"},
    "lastTimestamp": "2026-03-02T12:05:00Z",
    "count": 1,
}


def test_an_event_is_recorded_and_one_that_is_there_is_counted(server: Server, cluster: Cluster) -> None:
    server.will_answer((201, EVENT), refusal(409, "AlreadyExists"), {**EVENT, "count": 4}, {})
    cluster.record(EVENT)
    assert [request.method for request in server.requests] == ["POST"]
    cluster.record(EVENT)
    assert [request.method for request in server.requests[1:]] == ["POST", "GET", "PATCH"]
    assert server.requests[-1].path == "/api/v1/namespaces/ml/events/a.0123"
    assert server.requests[-1].body == {"count": 5, "lastTimestamp": "2026-03-02T12:05:00Z"}


def test_an_event_that_is_refused_is_an_error(server: Server, cluster: Cluster) -> None:
    server.will_answer(refusal(403, "Forbidden"))
    with pytest.raises(ClusterError):
        cluster.record(EVENT)


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [(400, "BadRequest"), (403, "Forbidden"), (404, "NotFound"), (409, "AlreadyExists"), (422, "Invalid")],
)
def test_a_refusal_has_the_server_s_code_reason_and_words_and_is_not_repeated(
    server: Server, cluster: Cluster, code: int, reason: str
) -> None:
    server.will_answer(refusal(code, reason, 'exceeded quota: gpus, requested: "1"'))
    with pytest.raises(ClusterError) as caught:
        cluster.create({"kind": "Job", "metadata": {"name": "x", "namespace": "ml"}})
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert str(caught.value) == 'exceeded quota: gpus, requested: "1"'
    assert len(server.requests) == 1


def test_a_refusal_without_words_has_its_code(server: Server, cluster: Cluster) -> None:
    server.will_answer((500, {}))
    with pytest.raises(ClusterError) as caught:
        cluster.get("Pod", "ml", "x")
    assert (caught.value.code, caught.value.reason, str(caught.value)) == (500, "500", "HTTP 500")
    assert len(server.requests) == 1, "an internal error may have been half a success"


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (200, b"<html>Log in to continue</html>"),
        (404, b"404 page not found\n"),
        (500, b"\xff\xfe"),
        (200, b""),
        (200, b"[]"),
        (404, b'"not found"'),
        (200, b"null"),
    ],
)
def test_an_answer_that_is_no_json_object_is_an_error_with_its_code(
    server: Server, cluster: Cluster, code: int, content: bytes
) -> None:
    server.will_answer((code, content))
    with pytest.raises(ClusterError) as caught:
        cluster.get("Pod", "ml", "x")
    assert (caught.value.code, caught.value.reason) == (code, "NotJson")
    assert str(caught.value).startswith(f"get Pod: HTTP {code}: ")


def test_a_proxy_s_page_is_told_by_its_beginning(server: Server, cluster: Cluster) -> None:
    server.will_answer((500, b"<html>" + b"x" * 5000))
    with pytest.raises(ClusterError) as caught:
        cluster.get("Pod", "ml", "x")
    assert len(str(caught.value)) < 250


# --- again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_a_server_that_has_no_time_is_asked_again(
    server: Server, cluster: Cluster, counted: list[tuple[str, str, int]], code: int
) -> None:
    server.will_answer(refusal(code, "TooManyRequests"), {"kind": "Pod"})
    assert cluster.get("Pod", "ml", "x") == {"kind": "Pod"}
    assert len(server.requests) == 2
    assert counted == [("get", "Pod", 200)]


def test_the_time_that_the_server_asks_for_is_waited_and_a_creation_is_sent_again(
    server: Server, cluster: Cluster
) -> None:
    server.will_answer((*refusal(429, "TooManyRequests"), {"Retry-After": "1"}), (201, {"kind": "Job"}))
    manifest = {"kind": "Job", "metadata": {"name": "x", "namespace": "ml"}}
    began = time.monotonic()
    assert cluster.create(manifest) == {"kind": "Job"}
    assert 0.9 < time.monotonic() - began < 5
    assert [request.body for request in server.requests] == [manifest, manifest]


def test_a_server_that_never_has_time_is_given_up(
    server: Server, cluster: Cluster, counted: list[tuple[str, str, int]]
) -> None:
    server.will_answer(refusal(503, "ServiceUnavailable", "overloaded"))
    with pytest.raises(ClusterError) as caught:
        cluster.patch("Deployment", "ml", "x", {})
    assert (caught.value.code, caught.value.reason, str(caught.value)) == (503, "ServiceUnavailable", "overloaded")
    assert len(server.requests) == 5
    assert counted == [("patch", "Deployment", 503)]


def test_a_connection_that_is_cut_is_made_again(server: Server, cluster: Cluster) -> None:
    server.will_answer((0, b""), {"kind": "Pod"})
    assert cluster.get("Pod", "ml", "x") == {"kind": "Pod"}


def test_a_server_that_cannot_be_reached_is_an_error_without_a_code(
    server: Server, cluster: Cluster, counted: list[tuple[str, str, int]]
) -> None:
    server.will_answer((0, b""))
    with pytest.raises(ClusterError) as caught:
        cluster.get("Pod", "ml", "x")
    assert (caught.value.code, caught.value.reason) == (0, "Unreachable")
    assert str(caught.value).startswith("get Pod: the API server does not answer (")
    assert counted == [("get", "Pod", 0)]


def test_a_port_where_nobody_listens_is_an_error_without_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = Server()
    free.server_close()
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", free.url)))
    api, _ = connect_as_user()
    with api, pytest.raises(ClusterError) as caught:
        Cluster(api).get("Pod", "ml", "x")
    assert (caught.value.code, caught.value.reason) == (0, "Unreachable")


# --- counted ----------------------------------------------------------------------------------------------------


def test_every_request_is_counted_by_verb_resource_and_code(
    server: Server, cluster: Cluster, counted: list[tuple[str, str, int]]
) -> None:
    job = {"kind": JOB, "metadata": {"name": "x", "namespace": "ml", "resourceVersion": "1"}}
    calls: list[Callable[[], Any]] = [
        lambda: cluster.create(job),
        lambda: cluster.get("Pod", "ml", "x"),
        lambda: cluster.patch("Deployment", "ml", "x", {}),
        lambda: cluster.patch_status(job, {}),
        lambda: cluster.delete("Job", "ml", "x"),
    ]
    server.will_answer((201, {}), {}, {}, {}, refusal(404, "NotFound"), page(more="1"), page())
    for call in calls:
        call()
    cluster.list("Service")
    assert counted == [
        ("create", "GVMTrainingJob", 201),
        ("get", "Pod", 200),
        ("patch", "Deployment", 200),
        ("patch", "GVMTrainingJob/status", 200),
        ("delete", "Job", 404),
        ("list", "Service", 200),
        ("list", "Service", 200),
    ]


# --- connection -------------------------------------------------------------------------------------------------


def test_the_token_of_the_kubeconfig_is_sent(server: Server, cluster: Cluster) -> None:
    cluster.get("Pod", "ml", "x")
    assert server.requests[0].headers["authorization"] == "Bearer s3cr3t"


class Timed(client.ApiClient):
    """A connection that notes how long a request may take."""

    def __init__(self) -> None:
        super().__init__(client.Configuration(host="http://127.0.0.1:9"))
        self.timeouts: list[Any] = []

    def call_api(self, *_: Any, _request_timeout: Any = None) -> Any:
        self.timeouts.append(_request_timeout)
        raise client.ApiException(status=0, reason="not in this test")


def test_every_request_has_a_time_limit() -> None:
    with Timed() as api:
        cluster = Cluster(api)
        for call in (lambda: cluster.list("Pod"), lambda: cluster.get("Pod", "ml", "x")):
            with pytest.raises(ClusterError):
                call()
        assert api.timeouts == [(5.0, 30.0), (5.0, 30.0)]


def test_without_a_cluster_the_operator_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="set KUBECONFIG to a kubeconfig file"):
        connect()


@pytest.mark.parametrize("namespace", ["", "ml"])
def test_a_user_s_namespace_is_that_of_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:9", namespace)
    monkeypatch.setenv("KUBECONFIG", str(path))
    api, found = connect_as_user()
    api.close()
    assert found == (namespace or "default")


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "kind: Config\ncurrent-context: x\n"])
def test_a_kubeconfig_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ValueError, match=f"kubeconfig {path} cannot be used: "):
        connect_as_user()


def test_a_user_without_a_kubeconfig_is_told_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"there is no kubeconfig at .*none; set KUBECONFIG to a kubeconfig file"):
        connect_as_user()
