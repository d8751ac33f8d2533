"""Weight sync, health, and the vLLM servers. Knows what the figures mean, not how they are drawn."""

from functools import partial

from gvm_metrics.dashboards import panels
from gvm_metrics.dashboards.boards import Row
from gvm_metrics.dashboards.panels import Frame, Query, lines, number, stacked
from gvm_metrics.dashboards.promql import ONE_JOB as JOB
from gvm_metrics.dashboards.promql import SCRAPES

_QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def rows() -> tuple[Row, Row, Row]:
    """All three rows."""
    return (
        Row("Weight sync", _sync()),
        Row("Health", (*_trouble(), *_allocator())),
        Row("vLLM servers", (*_load(), *_latency())),
    )


def _sync() -> tuple[panels.Lines, ...]:
    return (
        lines(
            Frame(
                "Parity of servers and learner",
                "By how much the logprobs of the servers differ from the learner's for the same tokens after a sync "
                "(|Δ log π| a token). Good: the mean far below the tolerance; above it the learner fails, since "
                "samples of another policy are worse than none.",
                panels.NATS,
                width=12,
            ),
            Query(JOB.newest("gvm_parity_mean_abs_nats"), "mean"),
            Query(JOB.newest("gvm_parity_max_abs_nats"), "largest"),
            Query(JOB.newest("gvm_parity_tolerance_nats"), "tolerance of the mean"),
            is_log=True,
        ),
        lines(
            Frame(
                "Time of a sync",
                "Until all servers have the new weights. Good: seconds, and without a trend.",
                panels.SECONDS,
                width=6,
            ),
            Query(JOB.mean("gvm_weight_sync_seconds"), "mean"),
            Query(JOB.quantile(0.95, "gvm_weight_sync_seconds"), "p95"),
            low=0,
        ),
        lines(
            Frame(
                "Weights pushed",
                "Bytes a second, averaged over whole iterations; a sync counts once however many servers there are.",
                "Bps",
                width=6,
            ),
            Query(JOB.rate("gvm_weight_sync_bytes_total"), "pushed"),
            low=0,
        ),
    )


def _trouble() -> tuple[panels.Lines | panels.Number, ...]:
    quarter = partial(Frame, width=6, none=panels.UNSCRAPED)
    return (
        lines(
            quarter(
                "Retries",
                "Requests that were sent again, within the averaging time, by target. Good: none. A few after a "
                "restart of a server are its price; a steady flow is an alert.",
                panels.COUNT,
            ),
            Query(JOB.increase("gvm_retries_total", "target"), "{{target}}"),
            low=0,
        ),
        lines(
            quarter(
                "Samples without a verdict",
                "Within the averaging time, by cause: the verifier took too long, or raised an error. They train "
                "nothing. Good: none.",
                panels.SAMPLES,
            ),
            Query(JOB.increase("gvm_verifier_failures_total", "cause"), "{{cause}}"),
            low=0,
        ),
        lines(
            quarter(
                "Samples in flight",
                "Samples that wait or are being worked on, at the servers and at the verifier. Good: verifier near 0; "
                "if it grows, verification is what sampling waits for.",
                panels.SAMPLES,
            ),
            Query(JOB.newest("gvm_queue_depth", "queue"), "{{queue}}"),
            low=0,
        ),
        stacked(
            quarter(
                "Processes that are scraped",
                "By role. Good: as many as the job has (of a learner, its first pod). A missing role has empty panels "
                "here: see docs/metrics.md on how to scrape.",
                panels.COUNT,
            ),
            Query(JOB.total("up", "role"), "{{role}}"),
        ),
    )


def _allocator() -> tuple[panels.Lines | panels.Number, ...]:
    return (
        lines(
            Frame(
                "Requests to the allocator",
                "As long as 95 of 100 requests took at most, by route. Good: below a second; plans of many thousand "
                "prompts take longest.",
                panels.SECONDS,
                width=9,
                none=panels.UNSCRAPED,
            ),
            Query(JOB.quantile(0.95, "gvm_allocator_request_seconds", "route"), "{{route}}"),
            low=0,
        ),
        lines(
            Frame(
                "Answers of the allocator",
                "Requests a second, by status code. Good: 200; 404 at the start is a learner that asks for state "
                "before there is any, 409 and 5xx are errors.",
                "reqps",
                width=6,
                none=panels.UNSCRAPED,
            ),
            Query(JOB.rate("gvm_allocator_request_seconds_count", "code", over=SCRAPES), "{{code}}"),
            low=0,
        ),
        lines(
            Frame(
                "Time to plan",
                "Of the allocator alone, without the request around it. Good: milliseconds.",
                panels.SECONDS,
                width=6,
            ),
            Query(JOB.mean("gvm_plan_seconds"), "mean"),
            Query(JOB.quantile(0.95, "gvm_plan_seconds"), "p95"),
            low=0,
        ),
        number(
            Frame(
                "Dropped prompts",
                "Training prompts that exceed maxPromptTokens and are never sampled. Good: 0, or as many as you "
                "expect.",
                panels.COUNT,
                width=3,
            ),
            Query(JOB.newest("gvm_dropped_prompts")),
            steps=((None, "green"), (1, "yellow")),
        ),
    )


def _load() -> tuple[panels.Lines, ...]:
    hits = JOB.rate("vllm:prefix_cache_hits_total", over=SCRAPES)
    asked = JOB.rate("vllm:prefix_cache_queries_total", over=SCRAPES)
    return (
        lines(
            Frame(
                "Requests at the servers",
                "Running and waiting, of all servers. Good while sampling: many running, few waiting. Many waiting "
                "with a full KV cache: lower rollout.concurrency or add servers.",
                panels.COUNT,
                none=panels.UNSCRAPED,
            ),
            Query(JOB.total("vllm:num_requests_running"), "running"),
            Query(JOB.total("vllm:num_requests_waiting"), "waiting"),
            Query(JOB.rate("vllm:num_preemptions_total", over=SCRAPES), "preempted a second"),
            low=0,
        ),
        lines(
            Frame(
                "KV cache in use",
                "By server. Good: high but below 100 % while sampling; at 100 % requests are preempted and computed "
                "again.",
                panels.SHARE,
                none=panels.UNSCRAPED,
            ),
            Query(f"max by (instance) ({JOB.of('vllm:kv_cache_usage_perc')})", "{{instance}}"),
            low=0,
            high=1,
        ),
        lines(
            Frame(
                "Tokens of the servers",
                "Tokens a second that the servers say they generate and read. Good: generation is level while "
                "sampling; its long tail at the end of a stage is a few long responses.",
                panels.TOKENS_PER_SECOND,
                none=panels.UNSCRAPED,
            ),
            Query(JOB.rate("vllm:generation_tokens_total", over=SCRAPES), "generated"),
            Query(JOB.rate("vllm:prompt_tokens_total", over=SCRAPES), "read"),
            low=0,
        ),
        lines(
            Frame(
                "Prefix cache hits",
                "Share of the prompts' tokens that were in the cache. Good: high, as the samples of one prompt share "
                "its prefix; short prompts have none, and a weight sync empties it. No line while nothing is asked.",
                panels.SHARE,
                none=panels.UNSCRAPED,
            ),
            Query(f"{hits} / {asked}", "hits"),
            low=0,
            high=1,
        ),
    )


def _latency() -> tuple[panels.Lines, ...]:
    def quantiles(metric: str) -> list[Query]:
        return [Query(JOB.quantile(q, metric, over=SCRAPES), name) for q, name in _QUANTILES]

    return (
        lines(
            Frame(
                "Time to the first token",
                "From a request's arrival. Good: below a second; it grows with the number of requests that wait.",
                panels.SECONDS,
                none=panels.UNSCRAPED,
            ),
            *quantiles("vllm:time_to_first_token_seconds"),
            low=0,
        ),
        lines(
            Frame(
                "Time of a request",
                "From arrival to the last token. p99 is what a stage waits for at its end. Good: far below "
                "rollout.requestTimeoutSeconds.",
                panels.SECONDS,
                none=panels.UNSCRAPED,
            ),
            *quantiles("vllm:e2e_request_latency_seconds"),
            low=0,
        ),
    )
