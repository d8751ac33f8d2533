"""One stage of sampling with a hand-written client and verifier that answer in any order."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import Future
from itertools import pairwise
from typing import cast

import pytest

from gvm_trainer.generate_api import SampleRequest, SamplingParams, group_requests
from gvm_trainer.rewards import Verdict, Verifier
from gvm_trainer.rollouts import RolloutClient
from gvm_trainer.samples import Completion, Group, Prompt, Sample, Stage
from gvm_trainer.sampling import sample_seed, sample_stage

GROUPS = [
    Group(prompt=Prompt(id=name, text=name, token_ids=(1, 2), answer=f"answer {name}")) for name in ("a", "b", "c")
]


class BackwardsClient:
    """Completes the last request first."""

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []
        self.params: list[SamplingParams | None] = []

    async def sample(
        self, requests: Iterable[SampleRequest], params: SamplingParams | None = None
    ) -> AsyncIterator[Completion]:
        asked = list(requests)
        self.requests += asked
        self.params.append(params)
        for request in reversed(asked):
            await asyncio.sleep(0)
            yield Completion(
                prompt_id=request.prompt.id,
                stage=request.stage,
                index=request.index,
                token_ids=(7,),
                logprobs=(-0.5,),
                text=f"{request.prompt.id}{request.index}",
                finish_reason="stop",
                policy_version=1,
            )


class LateVerifier:
    """Gives its verdicts, by completion text, when the last completion has arrived; others are accepted."""

    def __init__(self, num_expected: int, verdicts: Mapping[str, Verdict] = {}) -> None:
        self.num_expected, self.verdicts = num_expected, verdicts
        self.asked: list[tuple[str, str]] = []
        self.futures: list[Future[Verdict]] = []

    def submit(self, completion: str, answer: str) -> Future[Verdict]:
        self.asked.append((completion, answer))
        self.futures.append(Future())
        if len(self.futures) == self.num_expected:
            for future, (text, _) in zip(self.futures, self.asked, strict=True):
                future.set_result(self.verdicts.get(text, Verdict(reward=1.0, outcome="accepted")))
        return self.futures[-1]


def draw(
    client: BackwardsClient,
    sizes: Mapping[str, int],
    *,
    verdicts: Mapping[str, Verdict] = {},
    stage: Stage = "main",
    seed: int = 5,
    progress: list[float] | None = None,
) -> dict[str, tuple[Sample, ...]]:
    found = asyncio.run(
        sample_stage(
            cast(RolloutClient, client),
            cast(Verifier, LateVerifier(sum(sizes.values()), verdicts)),
            GROUPS,
            list(sizes.values()),
            stage=stage,
            seed=seed,
            on_progress=([] if progress is None else progress).append,
        )
    )
    assert [group.prompt for group in found] == [group.prompt for group in GROUPS]
    return {group.prompt.id: group.samples for group in found}


def test_every_sample_is_asked_for_once_and_comes_back_in_the_order_of_its_index() -> None:
    client = BackwardsClient()
    groups = draw(client, {"a": 3, "b": 0, "c": 2}, stage="pilot")
    assert [(r.prompt.id, r.stage, r.index) for r in client.requests] == [
        ("a", "pilot", 0),
        ("a", "pilot", 1),
        ("a", "pilot", 2),
        ("c", "pilot", 0),
        ("c", "pilot", 1),
    ]
    assert {i: [s.completion.text for s in own] for i, own in groups.items()} == {
        "a": ["a0", "a1", "a2"],
        "b": [],
        "c": ["c0", "c1"],
    }
    assert client.params == [None], "the training distribution"


def test_a_second_stage_stands_behind_the_first() -> None:
    client, groups = BackwardsClient(), GROUPS
    for stage, sizes in (("pilot", [2, 0, 1]), ("main", [1, 2, 0])):
        groups = asyncio.run(
            sample_stage(
                cast(RolloutClient, client),
                cast(Verifier, LateVerifier(3)),
                groups,
                sizes,
                stage=cast(Stage, stage),
                seed=0,
                on_progress=lambda _: None,
            )
        )
    keys = [[s.completion.key[1:] for s in group.samples] for group in groups]
    assert keys == [[("pilot", 0), ("pilot", 1), ("main", 0)], [("main", 0), ("main", 1)], [("pilot", 0)]]
    assert [group.size("main") for group in groups] == [1, 2, 0]


def test_each_completion_is_judged_against_its_own_prompts_answer() -> None:
    verifier = LateVerifier(3)
    asyncio.run(
        sample_stage(
            cast(RolloutClient, BackwardsClient()),
            cast(Verifier, verifier),
            GROUPS,
            [1, 2, 0],
            stage="main",
            seed=0,
            on_progress=lambda _: None,
        )
    )
    assert sorted(verifier.asked) == [("a0", "answer a"), ("b0", "answer b"), ("b1", "answer b")]


def test_verdicts_of_every_kind_reach_their_samples() -> None:
    verdicts = {
        "a0": Verdict(reward=0.0, outcome="rejected"),
        "a1": Verdict(reward=None, outcome="timeout", message="no verdict within 5 s"),
        "b0": Verdict(reward=None, outcome="error", message="the worker died"),
        "b1": Verdict(reward=0.5, outcome="rejected"),
    }
    groups = draw(BackwardsClient(), {"a": 3, "b": 2, "c": 0}, verdicts=verdicts)
    assert [(s.reward, s.outcome) for s in groups["a"]] == [(0.0, "rejected"), (None, "timeout"), (1.0, "accepted")]
    assert [(s.reward, s.outcome) for s in groups["b"]] == [(None, "error"), (0.5, "rejected")]
    said = [s.message for own in groups.values() for s in own]
    assert said == ["", "no verdict within 5 s", "", "the worker died", ""]


def test_progress_grows_with_every_sample_and_ends_at_one() -> None:
    progress: list[float] = []
    draw(BackwardsClient(), {"a": 3, "b": 1, "c": 4}, progress=progress)
    assert progress == [pytest.approx(n / 8) for n in range(1, 9)]
    assert progress[-1] == 1.0


def test_nothing_to_draw_is_no_request_and_no_progress() -> None:
    client, progress = BackwardsClient(), list[float]()
    groups = draw(client, {"a": 0, "b": 0, "c": 0}, progress=progress)
    assert (groups, client.requests, progress) == ({"a": (), "b": (), "c": ()}, [], [])


def seeds(*, sizes: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    client = BackwardsClient()
    draw(client, sizes, seed=seed)
    found: dict[str, list[int]] = {group.prompt.id: [] for group in GROUPS}
    for request in client.requests:
        found[request.prompt.id].append(request.seed)
    return found


def test_a_prompts_seeds_count_on_so_that_its_samples_travel_together() -> None:
    found = seeds(sizes={"a": 4, "b": 4, "c": 4}, seed=5)
    for own in found.values():
        assert [after - before for before, after in pairwise(own)] == [1, 1, 1]
    client = BackwardsClient()
    draw(client, {"a": 4, "b": 4, "c": 4})
    assert [len(group) for group in group_requests(client.requests, 8)] == [4, 4, 4]


def test_a_sample_has_the_same_seed_whatever_else_is_drawn() -> None:
    few, many = seeds(sizes={"a": 1, "b": 0, "c": 2}, seed=5), seeds(sizes={"a": 4, "b": 4, "c": 4}, seed=5)
    assert few["a"] == many["a"][:1]
    assert few["c"] == many["c"][:2]


def test_no_two_uses_share_a_seed() -> None:
    """Eight samples a prompt in 2 runs × 20 iterations × 2 stages × 20 prompts: as ranges, all apart."""
    starts = sorted(
        sample_seed(sample_seed(run, iteration, stage), str(prompt))
        for run in (0, 1)
        for iteration in range(20)
        for stage in ("pilot", "main")
        for prompt in range(20)
    )
    assert len(starts) == 1600
    assert all(after - before >= 8 for before, after in pairwise(starts))


def test_seeds_are_those_of_every_machine_and_spread_over_30_bits() -> None:
    assert [sample_seed(0, 1, "pilot"), sample_seed(0, 1, "main"), sample_seed(0, 11), sample_seed(0, 1, 1)] == [
        839659916,
        247257748,
        295426528,
        376711112,
    ]
    many = [sample_seed(n) for n in range(2000)]
    assert 0 <= min(many) < 2**24
    assert 2**30 - 2**24 < max(many) < 2**30
