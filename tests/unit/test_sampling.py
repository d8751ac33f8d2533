"""The stream of samples, with a hand-written source and verifier that answer in any order."""

import asyncio
import random
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import pairwise
from typing import cast

import pytest

from gvm_api.stopping import StoppingRule
from gvm_trainer.generate_api import SampleRequest
from gvm_trainer.rewards import Verdict, Verifier
from gvm_trainer.samples import Completion, Prompt, Sample, Stage
from gvm_trainer.sampling import sample_by_rules, sample_seed

PROMPTS = [Prompt(id=name, text=name, token_ids=(1, 2), answer=f"answer {name}") for name in ("a", "b", "c")]
ACCEPTED = Verdict(reward=1.0, outcome="accepted")
REJECTED = Verdict(reward=0.0, outcome="rejected")


class ShuffledSource:
    """Completes requests in an order that its own seed decides."""

    def __init__(self, order: int = 0) -> None:
        self.requests: list[SampleRequest] = []
        self.random = random.Random(order)

    async def draw(self, request: SampleRequest) -> Completion:
        self.requests.append(request)
        for _ in range(self.random.randrange(20)):
            await asyncio.sleep(0)
        return Completion(
            prompt_id=request.prompt.id,
            stage=request.stage,
            index=request.index,
            token_ids=(request.seed % 1000,),
            logprobs=(-0.5,),
            text=f"{request.prompt.id}{request.index}",
            finish_reason="stop",
            policy_version=1,
        )


class Judge:
    """Gives the verdict that is written down for a text; all others are accepted."""

    def __init__(self, verdicts: Mapping[str, Verdict] = {}) -> None:
        self.verdicts = verdicts
        self.asked: list[tuple[str, str]] = []

    def submit(self, completion: str, answer: str) -> Future[Verdict]:
        self.asked.append((completion, answer))
        future: Future[Verdict] = Future()
        future.set_result(self.verdicts.get(completion, ACCEPTED))
        return future


def draw(
    rules: Mapping[str, StoppingRule],
    *,
    source: ShuffledSource | None = None,
    verdicts: Mapping[str, Verdict] = {},
    stage: Stage = "main",
    seed: int = 5,
    progress: list[float] | None = None,
) -> dict[str, list[Sample]]:
    return asyncio.run(
        sample_by_rules(
            source or ShuffledSource(),
            cast(Verifier, Judge(verdicts)),
            PROMPTS,
            rules,
            stage=stage,
            seed=seed,
            on_progress=(progress if progress is not None else []).append,
        )
    )


def fixed(**sizes: int) -> dict[str, StoppingRule]:
    return {name: StoppingRule(first_round=size) for name, size in sizes.items()}


def texts(samples: Mapping[str, list[Sample]]) -> dict[str, list[str]]:
    return {name: [s.completion.text for s in own] for name, own in samples.items()}


def test_every_prompt_has_its_samples_in_order_whatever_the_order_of_answers() -> None:
    samples = draw(fixed(a=2, b=0, c=3))
    assert texts(samples) == {"a": ["a0", "a1"], "b": [], "c": ["c0", "c1", "c2"]}


def test_a_prompt_goes_on_until_its_first_accepted_sample() -> None:
    until = StoppingRule(first_round=1, limits=(4,))
    verdicts = {"a0": REJECTED, "a1": REJECTED, **{f"c{i}": REJECTED for i in range(9)}}
    samples = draw(dict.fromkeys("abc", until), verdicts=verdicts)
    assert texts(samples) == {"a": ["a0", "a1", "a2"], "b": ["b0"], "c": ["c0", "c1", "c2", "c3"]}


def test_rounds_are_drawn_whole_and_decided_together() -> None:
    rule = StoppingRule(first_round=2, round_size=3, limits=(6,))
    samples = draw(dict.fromkeys("abc", rule), verdicts={"a0": REJECTED, "a1": REJECTED, "a2": REJECTED})
    assert {name: len(own) for name, own in samples.items()} == {"a": 5, "b": 2, "c": 2}


@pytest.mark.parametrize("order", range(20))
def test_the_samples_do_not_depend_on_the_order_of_answers(order: int) -> None:
    rules = {"a": StoppingRule(first_round=1, limits=(8, 5)), "b": StoppingRule(first_round=0, limits=(9,))} | {
        "c": StoppingRule(first_round=4, round_size=2, limits=(9, 9))
    }
    verdicts = {"a0": REJECTED, "a2": REJECTED, "c0": REJECTED, "c1": REJECTED, "c2": REJECTED, "c3": REJECTED}
    usual = draw(rules, source=ShuffledSource(99), verdicts=verdicts)
    assert draw(rules, source=ShuffledSource(order), verdicts=verdicts) == usual


def test_a_sample_without_a_verdict_counts_as_drawn_and_not_as_accepted() -> None:
    timeout = Verdict(reward=None, outcome="timeout", message="slow")
    samples = draw(
        dict.fromkeys("abc", StoppingRule(first_round=1, limits=(3,))), verdicts={f"b{i}": timeout for i in range(9)}
    )
    assert [s.outcome for s in samples["b"]] == ["timeout"] * 3


def test_every_completion_is_judged_against_the_answer_of_its_prompt() -> None:
    judge = Judge()
    rules = fixed(a=1, b=1, c=1)
    asyncio.run(
        sample_by_rules(
            ShuffledSource(), cast(Verifier, judge), PROMPTS, rules, stage="main", seed=1, on_progress=lambda _: None
        )
    )
    assert sorted(judge.asked) == [("a0", "answer a"), ("b0", "answer b"), ("c0", "answer c")]


def test_a_prompts_seeds_count_on_over_its_rounds() -> None:
    source = ShuffledSource()
    draw(dict.fromkeys("abc", StoppingRule(first_round=1, limits=(3,))), source=source, verdicts={"a0": REJECTED})
    own = [r.seed for r in sorted(source.requests, key=lambda r: r.index) if r.prompt.id == "a"]
    assert all(later == earlier + 1 for earlier, later in pairwise(own))
    assert len({r.seed for r in source.requests}) == len(source.requests)


def test_another_stage_or_seed_draws_other_samples() -> None:
    one, other = ShuffledSource(), ShuffledSource()
    draw(fixed(a=1, b=1, c=1), source=one, seed=5)
    draw(fixed(a=1, b=1, c=1), source=other, seed=6)
    assert {r.seed for r in one.requests}.isdisjoint(r.seed for r in other.requests)


def test_progress_is_the_share_of_prompts_that_are_done() -> None:
    progress: list[float] = []
    draw(fixed(a=2, b=0, c=1), progress=progress)
    assert sorted(progress) == progress == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_a_source_that_fails_ends_all_of_it_with_its_own_error() -> None:
    class Failing(ShuffledSource):
        async def draw(self, request: SampleRequest) -> Completion:
            if request.prompt.id == "b":
                raise ConnectionError("server away")
            return await super().draw(request)

    with pytest.raises(ConnectionError, match="server away"):
        draw(fixed(a=1, b=1, c=1), source=Failing())


def test_seeds_are_30_bits_and_stable() -> None:
    assert sample_seed(0, "main", "a") == sample_seed(0, "main", "a") < 2**30
