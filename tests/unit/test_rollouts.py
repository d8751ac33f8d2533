"""Sampling against fake servers: every request exactly once, whatever the servers do.

Cases: grouping; balance over servers; a server that is down, dies, lies, hangs, refuses, restarts; all of them down;
name service; servers that vanish and appear, while sampled and while probed; what is said while waiting; readiness;
scoring.
"""

import asyncio
import json
import logging
import socket
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from name_service import NameService, run_with

from gvm_trainer.generate_api import group_requests
from gvm_trainer.rollouts import RolloutClient, RolloutError, SampleRequest, SamplingParams
from gvm_trainer.samples import Completion, Prompt
from gvm_trainer.servers import Fleet, ServerError, ServerGoneError, http_timeout, resolve_servers
from gvm_trainer.weight_sync import parity

A, B = "http://a:8000", "http://b:8000"

Handler = Callable[[dict[str, Any]], Awaitable[httpx.Response]]


def prompt(name: str, length: int = 2) -> Prompt:
    return Prompt(id=name, text="", token_ids=tuple(range(length)), answer="")


def requests_for(name: str, count: int, *, seed: int = 0, length: int = 2) -> list[SampleRequest]:
    own = prompt(name, length)
    return [SampleRequest(prompt=own, stage="main", index=i, seed=seed + i) for i in range(count)]


def answer(body: dict[str, Any], *, version: str = "default", finish_reason: str = "stop") -> dict[str, Any]:
    """What vLLM would draw, were the sample of seed s the tokens (s, 1)."""
    params = body["sampling_params"]
    choices = [
        {
            "index": k,
            "finish_reason": finish_reason,
            "token_ids": [params.get("seed", 0) + k, 1],
            "text": f"seed {params.get('seed', 0) + k}",
            "weight_versions": [{"version": version, "start": 0, "end": 2}],
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
        }
        for k in reversed(range(params.get("n", 1)))
    ]
    scores = [None] + [{str(t): {"logprob": -float(t)}} for t in body["token_ids"][1:]]
    return {"choices": choices, "prompt_logprobs": scores}


class Servers(httpx.AsyncBaseTransport):
    """Fake servers by host name; a host without a handler answers as a healthy server does."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers = handlers
        self.bodies: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if request.url.path == "/health":
            return await self.handlers[host]({}) if host in self.handlers else httpx.Response(200)
        body = json.loads(request.content)
        self.bodies[host].append(body)
        samples = body["sampling_params"].get("n", 1)
        self.in_flight[host] += samples
        self.most_in_flight[host] = max(self.most_in_flight[host], self.in_flight[host])
        try:
            await asyncio.sleep(0.001)
            return await self.handlers.get(host, healthy)(body)
        finally:
            self.in_flight[host] -= samples


async def healthy(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=answer(body))


async def down(body: dict[str, Any]) -> httpx.Response:
    raise httpx.ConnectError("connection refused")


async def hanging(body: dict[str, Any]) -> httpx.Response:
    await asyncio.sleep(3600)
    raise AssertionError


def serving(version: str) -> Handler:
    async def handle(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json=answer(body, version=version))

    return handle


def first(count: int, then: Handler, before: Handler) -> Handler:
    """`before` for the first `count` calls, `then` for the rest."""
    calls = 0

    async def handle(body: dict[str, Any]) -> httpx.Response:
        nonlocal calls
        calls += 1
        return await (before if calls <= count else then)(body)

    return handle


def open_client(servers: Servers, urls: Sequence[str] = (A, B), **settings: Any) -> RolloutClient:
    defaults: dict[str, Any] = {
        "max_tokens": 8,
        "concurrency": 16,
        "timeout_seconds": 5.0,
        "retries": 2,
        "cool_down_seconds": 0.01,
        "transport": servers,
    }
    return RolloutClient(urls, **(defaults | settings))


def sample(
    client: RolloutClient, requests: Sequence[SampleRequest], params: SamplingParams | None = None
) -> list[Completion]:
    async def collect() -> list[Completion]:
        async with client:
            return [completion async for completion in client.sample(requests, params)]

    return asyncio.run(collect())


def assert_each_once(completions: Sequence[Completion], requests: Sequence[SampleRequest]) -> None:
    drawn = Counter((c.prompt_id, c.stage, c.index, c.token_ids) for c in completions)
    asked = Counter((r.prompt.id, r.stage, r.index, (r.seed, 1)) for r in requests)
    assert drawn == asked


def test_every_request_is_answered_once_with_the_sample_of_its_own_seed() -> None:
    requests = requests_for("p", 20, seed=100) + requests_for("q", 3, seed=900)

    completions = sample(open_client(Servers()), requests)

    assert_each_once(completions, requests)
    assert {c.logprobs for c in completions} == {(-0.5, -0.25)}
    assert all(c.text == f"seed {c.token_ids[0]}" and c.policy_version == 0 for c in completions)


def test_samples_of_one_prompt_travel_eight_at_a_time() -> None:
    servers = Servers()

    sample(open_client(servers, [A]), requests_for("p", 20))

    params = [body["sampling_params"] for body in servers.bodies["a"]]
    assert [(p["seed"], p["n"]) for p in params] == [(0, 8), (8, 8), (16, 4)]
    assert {(p["max_tokens"], p["temperature"], p["top_p"], p["logprobs"]) for p in params} == {(8, 1.0, 1.0, 0)}


def test_greedy_samples_travel_alone_because_vllm_refuses_several() -> None:
    servers = Servers()

    sample(open_client(servers, [A]), requests_for("p", 3), SamplingParams(max_tokens=5, temperature=0.0))

    assert [body["sampling_params"]["n"] for body in servers.bodies["a"]] == [1, 1, 1]
    assert servers.bodies["a"][0]["sampling_params"]["max_tokens"] == 5


@given(st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 3))), st.integers(1, 5))
def test_grouping_keeps_order_and_needs_consecutive_seeds(asked: list[tuple[str, int]], size: int) -> None:
    seed, requests = 0, []
    for index, (name, step) in enumerate(asked):
        seed += step
        requests.append(SampleRequest(prompt=prompt(name), stage="main", index=index, seed=seed))

    groups = group_requests(requests, size)

    assert [r for group in groups for r in group] == requests
    assert all(1 <= len(group) <= size for group in groups)
    assert all(
        r.seed == group[0].seed + k and r.prompt == group[0].prompt for group in groups for k, r in enumerate(group)
    )


def test_a_sample_asked_for_twice_is_refused() -> None:
    twice = requests_for("p", 2) + requests_for("p", 1, seed=50)

    with pytest.raises(ValueError, match=r"\('p', 'main', 0\).*asked for twice"):
        sample(open_client(Servers()), twice)


def test_no_requests_give_no_completions() -> None:
    assert sample(open_client(Servers()), []) == []


def test_a_server_never_holds_more_samples_than_allowed() -> None:
    servers = Servers()

    sample(open_client(servers, concurrency=20), requests_for("p", 200))

    assert servers.most_in_flight == {"a": 16, "b": 16}  # two calls of 8; a third would make 24


def test_the_next_request_goes_where_fewest_tokens_are_outstanding() -> None:
    fleet = Fleet(concurrency=64, cool_down_seconds=1, outage_seconds=10)
    fleet.update([A, B])

    picked = [fleet.pick(8, tokens) for tokens in (1000, 10, 10, 10)]

    assert [server.url for server in picked if server] == [A, B, B, B]


def test_a_failed_server_is_left_alone_then_tried_with_one_request_at_a_time() -> None:
    now = 0.0
    fleet = Fleet(concurrency=64, cool_down_seconds=1, outage_seconds=60, clock=lambda: now)
    fleet.update([A])
    server = fleet.pick(8, 10)
    assert server is not None

    fleet.failed(server, "refused")
    fleet.failed(server, "refused")  # in flight when it broke: the same failure
    fleet.release(server, 8, 10)

    assert fleet.pick(8, 10) is None
    assert fleet.seconds_to_wait() == 1.0
    now = 1.0
    assert fleet.pick(8, 10) is server
    assert fleet.pick(8, 10) is None
    fleet.failed(server, "refused")
    assert fleet.seconds_to_wait() == 2.0
    fleet.succeeded(server)
    assert fleet.pick(8, 10) is server


def test_an_outage_ends_in_an_error_that_names_server_and_cause() -> None:
    now = 0.0
    fleet = Fleet(concurrency=64, cool_down_seconds=1, outage_seconds=60, clock=lambda: now)
    fleet.update([A])
    server = fleet.pick(1, 1)
    assert server is not None
    fleet.failed(server, "ConnectError: refused")

    now = 60.0
    fleet.seconds_to_wait()
    now = 61.0

    with pytest.raises(
        RolloutError, match=f"sampling has waited 61 s .*{A}.; last failure: .*{A}: ConnectError: refused"
    ):
        fleet.seconds_to_wait()


def test_a_server_that_is_down_costs_nothing_but_its_share() -> None:
    servers = Servers(a=down)
    requests = requests_for("p", 80)

    completions = sample(open_client(servers), requests)

    assert_each_once(completions, requests)
    assert sum(body["sampling_params"]["n"] for body in servers.bodies["b"]) == 80


def test_a_server_that_dies_midway_has_its_requests_sent_elsewhere_once() -> None:
    async def dies(body: dict[str, Any]) -> httpx.Response:
        raise httpx.ReadError("connection reset")

    servers = Servers(a=first(3, dies, healthy))
    requests = requests_for("p", 400)

    completions = sample(open_client(servers), requests)

    assert_each_once(completions, requests)
    answered_by_a = sum(body["sampling_params"]["n"] for body in servers.bodies["a"][:3])
    assert answered_by_a + sum(body["sampling_params"]["n"] for body in servers.bodies["b"]) == 400


def test_a_server_that_comes_back_serves_again() -> None:
    servers = Servers(a=first(5, healthy, down))
    requests = requests_for("p", 16)

    completions = sample(open_client(servers, [A], retries=0), requests)

    assert_each_once(completions, requests)


@pytest.mark.parametrize("finish_reason", ["abort", "error"])
def test_samples_that_were_cut_off_are_drawn_again(finish_reason: str) -> None:
    async def cut(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200, json=answer(body, finish_reason=finish_reason))

    servers = Servers(a=first(1, healthy, cut))
    requests = requests_for("p", 4)

    assert_each_once(sample(open_client(servers, [A]), requests), requests)
    assert len(servers.bodies["a"]) == 2


async def incomplete(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=answer(body) | {"choices": answer(body)["choices"][1:]})


async def across_versions(body: dict[str, Any]) -> httpx.Response:
    whole = answer(body)
    whole["choices"][0]["weight_versions"].append({"version": "1", "start": 2, "end": 2})
    return httpx.Response(200, json=whole)


async def failing(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(500, text="engine died")


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (failing, "HTTP 500: engine died"),
        (incomplete, "3 samples where 4 were asked for"),
        (across_versions, r"versions \['1', 'default'\]"),
        (serving("undefined"), "its weights are 'undefined'"),
    ],
)
def test_a_request_that_keeps_failing_is_given_up_after_its_retries(handler: Handler, cause: str) -> None:
    servers = Servers(a=handler)

    with pytest.raises(RolloutError, match=f"{A}: .*{cause}"):
        sample(open_client(servers, [A], retries=2), requests_for("p", 4))

    assert len(servers.bodies["a"]) == 3


def test_a_request_that_a_server_refuses_is_not_sent_again() -> None:
    async def refusing(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(400, text="prompt is too long")

    servers = Servers(a=refusing)

    with pytest.raises(RolloutError, match=f"{A} refuses a request .400.: prompt is too long"):
        sample(open_client(servers, [A]), requests_for("p", 1))

    assert len(servers.bodies["a"]) == 1


def test_a_server_that_hangs_is_an_error_after_the_timeout() -> None:
    with pytest.raises(RolloutError, match=f"{A}: TimeoutError"):
        sample(open_client(Servers(a=hanging), [A], timeout_seconds=0.05, retries=0), requests_for("p", 1))


def test_a_hanging_server_does_not_hold_up_the_others() -> None:
    requests = requests_for("p", 64)

    completions = sample(open_client(Servers(a=hanging), timeout_seconds=0.2, retries=5), requests)

    assert_each_once(completions, requests)


def test_all_servers_down_for_longer_than_the_timeout_is_an_error() -> None:
    with pytest.raises(RolloutError, match=r"sampling has waited .* s for a rollout server .*connection refused"):
        sample(open_client(Servers(a=down, b=down), timeout_seconds=0.1, retries=0), requests_for("p", 32))


def test_who_stops_listening_leaves_no_request_behind() -> None:
    servers = Servers(a=first(1, hanging, healthy))

    async def take_one() -> None:
        async with open_client(servers, [A]) as client:
            completions = client.sample(requests_for("p", 24))
            await anext(completions)
            assert servers.in_flight["a"] == 16
            await completions.aclose()

    asyncio.run(take_one())
    assert servers.in_flight["a"] == 0


def test_a_restarted_server_gets_the_weights_back_before_its_samples_count() -> None:
    servers = Servers(a=serving("default"))
    restored: list[str] = []

    async def restore(url: str) -> None:
        restored.append(url)
        servers.handlers["a"] = serving("7")

    client = open_client(servers, [A], on_stale=restore, retries=0)
    client.expected_version = 7
    requests = requests_for("p", 4)

    completions = sample(client, requests)

    assert_each_once(completions, requests)
    assert {c.policy_version for c in completions} == {7}
    assert restored == [A]


def test_a_stale_server_that_cannot_be_restored_is_not_sampled() -> None:
    async def restore(url: str) -> None:
        raise ServerError(f"rollout server {url}: start_weight_update failed")

    servers = Servers(a=serving("default"), b=serving("7"))
    client = open_client(servers, on_stale=restore, retries=3)
    client.expected_version = 7

    completions = sample(client, requests_for("p", 100))

    assert {c.policy_version for c in completions} == {7}


def test_scores_of_given_tokens_leave_the_first_out() -> None:
    async def score() -> tuple[float, ...]:
        async with open_client(Servers(b=failing)) as client:
            return await client.prompt_logprobs([4, 5, 6], url=A)

    assert asyncio.run(score()) == (-5.0, -6.0)


def test_a_name_stands_for_each_of_its_addresses() -> None:
    urls = asyncio.run(resolve_servers(["http://a:1/", "dns+http://localhost:8000", "http://a:1"]))

    assert urls[0] == "http://a:1"
    assert "http://127.0.0.1:8000" in urls[1:]
    assert len(urls) == len(set(urls))


def test_a_name_without_an_address_stands_for_no_server() -> None:
    assert run_with(NameService(), lambda: resolve_servers(["dns+http://rollout:8000", "http://a:1"])) == ["http://a:1"]


def test_a_name_service_that_does_not_answer_is_an_error() -> None:
    names = NameService()
    names.answers = False

    with pytest.raises(RolloutError, match=r"dns\+http://rollout:8000: .*Temporary failure"):
        run_with(names, lambda: resolve_servers(["dns+http://rollout:8000"]))


def test_a_name_without_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="give it as"):
        asyncio.run(resolve_servers(["dns+http://somewhere"]))


def test_waiting_ends_when_the_last_server_is_healthy() -> None:
    async def up(body: dict[str, Any]) -> httpx.Response:
        return httpx.Response(200)

    assert asyncio.run(ready(Servers(b=first(2, up, down)))) == [A, B]


async def ready(servers: Servers, seconds: float = 5) -> list[str]:
    async with open_client(servers) as client:
        await client.wait_until_ready(seconds)
        return await client.find_servers()


def test_waiting_names_the_server_that_is_not_ready() -> None:
    with pytest.raises(RolloutError, match=f"not ready after 0.1 s: rollout server {B}: ConnectError"):
        asyncio.run(ready(Servers(b=down), 0.1))


def test_a_client_without_servers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one rollout server"):
        open_client(Servers(), [])


NAMED = ["dns+http://rollout:8000"]
OLD, NEW, OTHER = "127.0.0.2", "127.0.0.3", "127.0.0.4"


def follow(servers: Servers, names: NameService, **settings: Any) -> RolloutClient:
    """A client that looks at `names` all the time, and has no try to spare."""
    return open_client(servers, NAMED, **({"look_seconds": 0.01, "retries": 0} | settings))


async def collect(client: RolloutClient, requests: Sequence[SampleRequest]) -> list[Completion]:
    return [completion async for completion in client.sample(requests)]


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: Callable[[], str]) -> None:
    """One call over a real connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    text = json.dumps(answer(json.loads(await reader.readexactly(length)), version=version())).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    await writer.drain()
    writer.close()


def test_a_server_replaced_under_a_new_address_costs_the_requests_that_hang_there_once_more_and_nothing_else() -> None:
    names, requests, version = NameService(OLD), requests_for("p", 40), "default"

    async def restore(url: str) -> None:
        nonlocal version
        assert url == f"http://{NEW}:{port}"
        version = "7"

    async def run() -> list[Completion]:
        lost.setblocking(False)
        async with RolloutClient(
            [f"dns+http://rollout:{port}"],
            max_tokens=8,
            concurrency=16,
            timeout_seconds=10,
            retries=0,
            on_stale=restore,
            look_seconds=0.01,
        ) as client:
            client.expected_version = 7
            drawing = asyncio.create_task(collect(client, requests))
            # A pod that was deleted by force: its connections stay open, and no answer ever comes.
            connection, _ = await names.sock_accept(lost)
            names.addresses.clear()
            look = names.num_looks
            await until(lambda: names.num_looks > look + 1)
            with connection:
                async with await asyncio.start_server(lambda r, w: respond(r, w, lambda: version), NEW, port):
                    names.addresses.append(NEW)
                    return await drawing

    with socket.create_server((OLD, 0)) as lost:
        port = lost.getsockname()[1]
        completions = run_with(names, run)

    assert_each_once(completions, requests)
    assert {c.policy_version for c in completions} == {7}


def test_when_one_of_two_servers_vanishes_the_other_draws_what_it_had_not_finished() -> None:
    names, requests = NameService(OLD, OTHER), requests_for("p", 160)
    servers = Servers(**{OLD: first(1, hanging, healthy)})

    async def run() -> list[Completion]:
        async with follow(servers, names) as client:
            drawing = asyncio.create_task(collect(client, requests))
            await until(lambda: servers.in_flight[OLD] == 16 and len(servers.bodies[OLD]) > 2)
            names.addresses.remove(OLD)
            completions = await drawing
            assert (client.num_retries, client.num_servers) == (2, 1)
            return completions

    completions = run_with(names, run)

    assert_each_once(completions, requests)
    assert servers.in_flight[OLD] == 0
    assert len(servers.bodies[OLD]) == 3, "one call was answered, two were asked elsewhere"


def test_servers_that_appear_while_samples_are_drawn_get_the_weights_and_their_share() -> None:
    names, requests = NameService(OLD), requests_for("p", 400)
    appearing = (NEW, OTHER)
    servers = Servers(**{OLD: serving("7"), NEW: serving("default"), OTHER: serving("undefined")})

    async def restore(url: str) -> None:
        host = httpx.URL(url).host
        assert host in appearing
        servers.handlers[host] = serving("7")

    async def run() -> list[Completion]:
        async with follow(servers, names, on_stale=restore) as client:
            client.expected_version = 7
            drawing = asyncio.create_task(collect(client, requests))
            await until(lambda: len(servers.bodies[OLD]) > 2)
            names.addresses += appearing
            return await drawing

    completions = run_with(names, run)

    assert_each_once(completions, requests)
    assert {c.policy_version for c in completions} == {7}
    assert [servers.most_in_flight[host] for host in (OLD, *appearing)] == [16, 16, 16]


def test_servers_stay_known_while_the_name_service_does_not_answer() -> None:
    names, requests = NameService(OLD), requests_for("p", 80)

    async def run() -> list[Completion]:
        async with follow(Servers(), names) as client:
            await client.find_servers()
            names.answers = False
            return await collect(client, requests)

    assert_each_once(run_with(names, run), requests)


def test_when_all_servers_are_gone_an_error_says_who_waited_for_whom_and_why() -> None:
    names, servers = NameService(OLD), Servers(**{OLD: hanging})

    async def run() -> None:
        async with follow(servers, names, timeout_seconds=0.3) as client:
            drawing = asyncio.create_task(collect(client, requests_for("p", 8)))
            await until(lambda: servers.in_flight[OLD] == 8)
            names.addresses.clear()
            await drawing

    with pytest.raises(RolloutError, match=r"sampling has waited \d+ s for a rollout server \(none is listed\)"):
        run_with(names, run)


def test_what_sampling_waits_for_is_said_while_it_does_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    names, servers = NameService(OLD), Servers(**{OLD: down})
    requests = requests_for("p", 64)

    async def run() -> list[Completion]:
        async with follow(servers, names) as client:
            drawing = asyncio.create_task(collect(client, requests))
            await until(lambda: len(servers.bodies[OLD]) > 3)
            told = client.waiting
            assert told is not None
            assert (told.who, told.target) == ("sampling", f"http://{OLD}:8000")
            assert told.cause == "ConnectError: connection refused"
            names.addresses.clear()
            await until(lambda: client.waiting is not None and client.waiting.target == NAMED[0])
            assert client.waiting == told.model_copy(
                update={"target": NAMED[0], "cause": "no address is listed under the name"}
            )
            names.addresses.append(NEW)
            completions = await drawing
            assert client.waiting is None
            return completions

    with caplog.at_level(logging.WARNING):
        completions = run_with(names, run)

    assert_each_once(completions, requests)
    waits, goes_on = (record.getMessage() for record in caplog.records)
    assert waits == f"sampling waits for rollout server http://{OLD}:8000: ConnectError: connection refused"
    assert goes_on.startswith("sampling goes on after")


def test_one_failure_is_no_wait(caplog: pytest.LogCaptureFixture) -> None:
    requests = requests_for("p", 8)

    with caplog.at_level(logging.WARNING):
        completions = sample(open_client(Servers(a=first(1, healthy, down)), [A]), requests)

    assert_each_once(completions, requests)
    assert not caplog.records


def test_a_refused_connection_is_told_in_the_words_of_the_operating_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    with pytest.raises(RolloutError, match="ConnectError: Connection refused"):
        sample(
            RolloutClient([url], max_tokens=8, concurrency=8, timeout_seconds=0.2, retries=0, cool_down_seconds=0.01),
            requests_for("p", 1),
        )


def probe(client: RolloutClient) -> Any:
    return parity(client, [[4, 5, 6]], [[-5.0, -6.0]])


def test_the_parity_probe_moves_on_from_a_server_that_vanishes_to_those_that_are_there() -> None:
    names = NameService(OLD, OTHER)
    servers = Servers(**{OLD: hanging, NEW: serving("default"), OTHER: serving("3")})

    async def restore(url: str) -> None:
        servers.handlers[httpx.URL(url).host] = serving("3")

    async def run() -> Any:
        async with follow(servers, names, on_stale=restore) as client:
            client.expected_version = 3
            probing = asyncio.create_task(probe(client))
            await until(lambda: servers.in_flight[OLD] == 1)
            names.addresses[:] = [NEW, OTHER]
            return await probing

    result = run_with(names, run)

    assert (result.num_tokens, result.max_abs) == (4, 0.0)
    assert servers.bodies[NEW]
    assert servers.bodies[OTHER]


def test_the_parity_probe_waits_for_a_server_where_there_is_none() -> None:
    names = NameService()

    async def run() -> Any:
        async with follow(Servers(), names) as client:
            probing = asyncio.create_task(probe(client))
            await until(lambda: client.waiting is not None)
            names.addresses.append(NEW)
            return await probing

    assert run_with(names, run).num_tokens == 2


def test_the_parity_probe_gives_up_a_server_that_takes_no_connection_and_says_how_long_it_has_waited() -> None:
    async def run() -> None:
        async with open_client(Servers(a=down), timeout_seconds=0.2) as client:
            await probe(client)

    with pytest.raises(
        RolloutError, match=f"the parity probe has waited \\d+ s for rollout server {A}; .*connection refused"
    ):
        run_with(NameService(), run)


def test_a_server_that_is_not_listed_cannot_be_asked_by_its_url() -> None:
    async def run() -> None:
        async with open_client(Servers()) as client:
            await client.prompt_logprobs([4, 5], url="http://c:8000")

    with pytest.raises(ServerGoneError, match="http://c:8000: its address is listed no longer"):
        run_with(NameService(), run)


def test_a_connection_is_waited_for_only_shortly() -> None:
    assert (http_timeout(600.0).connect, http_timeout(600.0).read, http_timeout(1.0).connect) == (5.0, 600.0, 1.0)
