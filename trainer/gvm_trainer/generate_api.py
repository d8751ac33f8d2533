"""vLLM's token-in-token-out endpoint `/inference/v1/generate`: what goes in and what an answer means.

Pure: dictionaries in and out. Unlike `/v1/completions` the endpoint says under which weights each token was
drawn, and applies no sampling defaults from the model's generation_config.json. It needs
`--enable-scale-out`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gvm_trainer.samples import Completion, Prompt, Stage

PATH = "/inference/v1/generate"

INITIAL_VERSION = "default"
"""What vLLM calls the weights that it was started with; policy version 0 here."""


class UnusableAnswerError(RuntimeError):
    """The server answered, but not with what was asked; another attempt may do better."""


class NoVersionError(UnusableAnswerError):
    """The server's weights are those of no policy version: a sync into it has broken off half-way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """One sample to draw; (prompt.id, stage, index) names it, `seed` decides it.

    Requests for one prompt with consecutive seeds travel as one, which is several times faster: give sample k
    the seed base + k.

    Example:
        SampleRequest(prompt=prompt, stage="pilot", index=0, seed=1_000)
    """

    prompt: Prompt
    stage: Stage
    index: int
    seed: int


Group = tuple[SampleRequest, ...]
"""Requests that travel as one call: the same prompt and stage, seeds s, s + 1, s + 2, …"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """The distribution to draw from and the longest response (tokens); temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


def group_requests(requests: Iterable[SampleRequest], max_size: int) -> list[Group]:
    """Split requests into runs of at most `max_size` that one call can serve.

    vLLM gives sample k of a call with seed s the seed s + k, so samples drawn in one call are the same as
    when drawn one by one.

    Raises:
        ValueError: two requests have the same (prompt, stage, index).
    """
    groups: list[list[SampleRequest]] = []
    seen: set[tuple[str, Stage, int]] = set()
    for request in requests:
        identity = (request.prompt.id, request.stage, request.index)
        if identity in seen:
            raise ValueError(f"requests: sample {identity} (prompt, stage, index) is asked for twice")
        seen.add(identity)
        if not groups or len(groups[-1]) == max_size or not _continues(groups[-1][-1], request):
            groups.append([])
        groups[-1].append(request)
    return [tuple(group) for group in groups]


def _continues(last: SampleRequest, request: SampleRequest) -> bool:
    return (last.prompt.id, last.stage, last.seed + 1) == (request.prompt.id, request.stage, request.seed)


def sampling_body(group: Group, params: SamplingParams, *, model: str) -> dict[str, Any]:
    """Return the call that draws the group."""
    first = group[0]
    return {
        "model": model,
        "token_ids": list(first.prompt.token_ids),
        "output_mode": "text",
        "sampling_params": {
            "n": len(group),
            "seed": first.seed,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "logprobs": 0,  # the drawn token's own, and no alternatives
        },
    }


def scoring_body(token_ids: Sequence[int], *, model: str) -> dict[str, Any]:
    """Return the call that scores given tokens. vLLM has to draw one token more; it is thrown away."""
    return {
        "model": model,
        "token_ids": list(token_ids),
        "output_mode": "tokens",
        "sampling_params": {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0},
    }


def read_version(answer: dict[str, Any]) -> int:
    """Return the policy version under which the whole answer was drawn.

    Raises:
        UnusableAnswerError: the weights changed on the way.
        NoVersionError: they bear no number.
    """
    choices = answer["choices"]
    return parse_version({str(span["version"]) for choice in choices for span in choice["weight_versions"] or ()})


def parse_version(labels: Collection[str]) -> int:
    """Return the policy version that the labels of the weights name.

    Raises:
        UnusableAnswerError: there are several labels or none, or the only one bears no number.
    """
    if len(labels) != 1:
        raise UnusableAnswerError(f"weights changed while it answered: versions {sorted(labels)}")
    (version,) = labels
    if version == INITIAL_VERSION:
        return 0
    if not version.isdecimal():
        raise NoVersionError(f"its weights are {version!r}, not those of a policy version")
    return int(version)


def read_completions(group: Group, answer: dict[str, Any]) -> list[Completion]:
    """Return the group's completions, in the group's order.

    Raises:
        UnusableAnswerError: samples are missing or were aborted.
    """
    version = read_version(answer)
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    if [choice["index"] for choice in choices] != list(range(len(group))):
        raise UnusableAnswerError(f"answered with {len(choices)} samples where {len(group)} were asked for")
    return [_read_choice(request, choice, version) for request, choice in zip(group, choices, strict=True)]


def _read_choice(request: SampleRequest, choice: dict[str, Any], version: int) -> Completion:
    scores = choice["logprobs"]["content"]
    if len(scores) != len(choice["token_ids"]):
        raise UnusableAnswerError(f"{len(scores)} logprobs for {len(choice['token_ids'])} tokens")
    return Completion(
        prompt_id=request.prompt.id,
        stage=request.stage,
        index=request.index,
        token_ids=tuple(choice["token_ids"]),
        logprobs=tuple(float(score["logprob"]) for score in scores),
        text=choice["text"],
        finish_reason=_read_finish_reason(choice),
        policy_version=version,
    )


def _read_finish_reason(choice: dict[str, Any]) -> Literal["stop", "length"]:
    match choice["finish_reason"]:
        case "stop":
            return "stop"
        case "length":
            return "length"
        case other:
            raise UnusableAnswerError(f"sample ended by {other!r}")


def read_prompt_logprobs(token_ids: Sequence[int], answer: dict[str, Any]) -> tuple[float, ...]:
    """Return log π(token t | tokens before t) for t = 1 … len − 1 (nats)."""
    scores = answer["prompt_logprobs"][1:]
    return tuple(float(s[str(token)]["logprob"]) for token, s in zip(token_ids[1:], scores, strict=True))
