"""docs/metrics.md, every metric and how it is scraped: `python -m gvm_metrics.reference`.

Owns how the catalogue is written for people, and the few words on vLLM's own metrics. What a metric means stands in
`catalogue`.
"""

from collections.abc import Sequence

from gvm_metrics.catalogue import BY_PROCESS, DIFFICULTIES, STAGES, Family

VLLM = {
    "vllm:num_requests_running": "Requests that are being worked on.",
    "vllm:num_requests_waiting": "Requests that wait for room.",
    "vllm:num_preemptions_total": "Requests that were put back for lack of KV cache, to be computed again.",
    "vllm:kv_cache_usage_perc": "Share of the KV cache in use, 0 to 1.",
    "vllm:generation_tokens_total": "Tokens generated.",
    "vllm:prompt_tokens_total": "Prompt tokens read, once a request.",
    "vllm:prefix_cache_queries_total": "Prompt tokens looked up in the prefix cache.",
    "vllm:prefix_cache_hits_total": "Those that were there.",
    "vllm:time_to_first_token_seconds": "Histogram: from a request's arrival to its first token.",
    "vllm:e2e_request_latency_seconds": "Histogram: from a request's arrival to its last token.",
}
"""Of vLLM's metrics, those that the dashboards use."""

_SERVED = {
    "learner": "Of rank 0 of a job's learner, on its first pod: port 8000, named `http`.",
    "allocator": "Of a job's allocator: port 8000, named `http`.",
    "operator": "Of the operator: port 9090 (`settings.metricsPort`), named `metrics`. A job's series go with the job.",
}

_HEAD = """\
# Metrics

Written by `make generate` from `operator/gvm_metrics/`: edit `catalogue.py` (the metrics) or `reference.py` (the
words).

Every process of ours serves Prometheus' text format under `/metrics`, without a token: the learner, the allocator, the
vLLM servers, the operator. The dashboards of the chart (`charts/gvm-operator/dashboards/`, written by `make generate`,
to be imported into any Grafana) and its alerts ([operations.md](operations.md#alerts)) use these names and no others.

Names begin with `gvm_`, times are in seconds, shares run from 0 to 1. `namespace` and `job` name the training job.
Labels have few values: jobs, stages, roles, classes, never prompts or samples. A job has fewer than 500 series,
whatever its size; those of a vLLM server come besides.

Figures that an iteration has one of (loss, accuracy, variance, …) are gauges and keep their value until the next
iteration. Counters of the learner move once an iteration, too: take their rate over a time that is longer than one.
NaN is a figure that was not measured or is no finite number. Counters begin anew when a process does. The learner ends
with its last iteration, whose figures no scrape may have seen: `metrics.jsonl` has them, and the operator keeps
iteration and accuracy."""

_SCRAPING = """\
## A run on one machine

`gvm run` writes `RUN_DIR/targets.json` while it runs: where its processes serve `/metrics`, in the format of
Prometheus' file-based discovery, with the labels `namespace`, `job`, `role` and `process`. Give Prometheus this
`prometheus.yml`, in the folder that holds `runs/`, and name each run that you want to see:

```yaml
global:
  scrape_interval: 5s
scrape_configs:
- job_name: gvm
  honor_labels: true                     # namespace and job are the training job's, not the scrape's
  file_sd_configs:
  - files: [runs/arithmetic/targets.json]
```

    prometheus --config.file prometheus.yml

Then point Grafana at http://127.0.0.1:9090 and import `charts/gvm-operator/dashboards/training.json`.

## A cluster

`monitoring.podMonitor.enabled` makes two PodMonitors: one for the operator, one for the pods of its jobs (rollout,
allocator, learner), both with `honorLabels: true`. The second gives every series the labels `namespace`, `job` and
`role`, vLLM's as well. Where NetworkPolicies are in force, name Prometheus' namespace in
`settings.monitoringNamespace`. See [install.md](install.md#monitoring)."""

_DASHBOARDS = """\
## Dashboards

*GVM training* is one job, *GVM fleet* all of them, *GVM operator* the operator. Every panel says in its description how
to read it. Of *GVM training*, on a run of [examples/arithmetic.yaml](../examples/arithmetic.yaml) on two CPU cores:

![at a glance, convergence, sample budgets, variance](images/dashboard-training.png)

![throughput and cost, where the time goes, weight sync, health, vLLM servers](images/dashboard-cost.png)

Drawn from the dashboard's JSON and Prometheus' answers by `docs/images/render_dashboard.py`, not screenshots of
Grafana."""

_VLLM = """\
## vLLM

The servers' `/metrics` is vLLM's own: dozens of metrics that begin with `vllm:`, with the labels `model_name` and
`engine`, and those of the scrape. The dashboards use these:"""


def text() -> str:
    """The whole page as Markdown."""
    sections = (_section(process, families) for process, families in BY_PROCESS.items())
    return "\n\n".join((_HEAD, *sections, _vllm(), _SCRAPING, _DASHBOARDS)) + "\n"


def _section(process: str, families: Sequence[Family]) -> str:
    words = {
        "learner": f" `stage` of samples and tokens is one of {_list(STAGES)}.",
        "allocator": f" `accept_rate` is a class of the estimated acceptance rate: {_list(DIFFICULTIES)}.",
    }
    head = f"## {process.capitalize()}\n\n{_SERVED[process]}{words.get(process, '')}\n\n"
    return head + _table(("metric", "type", "labels", "unit", "meaning"), [_row(family) for family in families])


def _row(family: Family) -> tuple[str, ...]:
    labels = ", ".join(family.labels) or "–"
    return f"`{family.name}`", family.kind, labels, family.unit, family.meaning


def _vllm() -> str:
    return f"{_VLLM}\n\n" + _table(("metric", "meaning"), [(f"`{name}`", meaning) for name, meaning in VLLM.items()])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _list(values: Sequence[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


if __name__ == "__main__":
    print(text(), end="")
