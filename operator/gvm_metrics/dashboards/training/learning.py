"""At a glance, and convergence. Knows what the figures mean, not how they are drawn."""

from functools import partial

from gvm_metrics.dashboards import panels
from gvm_metrics.dashboards.boards import Row
from gvm_metrics.dashboards.panels import PHASE_COLORS, Frame, Query, lines, number, word
from gvm_metrics.dashboards.promql import ONE_JOB as JOB
from gvm_metrics.dashboards.promql import WINDOW

_ITERATIONS_LEFT = f"({JOB.newest('gvm_max_iterations')} - {JOB.newest('gvm_iteration')})"
_REALISED, _PREDICTED = ('kind="realised"',), ('kind="predicted"',)
_QUANTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))


def rows() -> tuple[Row, Row]:
    """Both rows."""
    return Row("At a glance", (_phase(), _stage(), *_standing())), Row("Convergence", (*_outcomes(), *_updates()))


def _phase() -> panels.Number:
    told = f"{JOB.newest('gvm_job_phase', 'phase')} == 1"
    seen = f'label_replace(0 * {JOB.newest("gvm_iteration")} + 1, "phase", "Running", "", "")'
    says = (
        "The job's phase as the operator has it. Where there is no operator (a run on one machine), Running as long as "
        "the learner is scraped. Good: Running or Succeeded."
    )
    frame = Frame("Phase", says, "none", width=3, height=4, none="over, or not scraped")
    return word(frame, Query(f"({told}) or on () {seen}", "{{phase}}"), colors=PHASE_COLORS)


def _stage() -> panels.Number:
    says = (
        "The stage of the loop that runs now: plan, main, score, train, sync, evaluate, records, checkpoint, and under "
        "schedule two_stage pilot and grad_norms. The row “Where the time goes” shows how they take turns."
    )
    frame = Frame("Stage", says, "none", width=3, height=4, none="none now")
    return word(frame, Query(f"{JOB.newest('gvm_stage', 'stage')} == 1", "{{stage}}"), colors={})


def _standing() -> tuple[panels.Number, ...]:
    left = f"{_ITERATIONS_LEFT} * max(avg_over_time({JOB.of('gvm_iteration_seconds')}[{WINDOW}]))"
    small = partial(Frame, width=3, height=4)
    return (
        number(
            small("Iteration", "Iterations that are done, of those that there are to be.", "none"),
            Query(JOB.newest("gvm_iteration"), "done"),
            Query(JOB.newest("gvm_max_iterations"), "of"),
        ),
        number(
            small(
                "Time left",
                "Iterations that are left, times the mean time of the last ones. Evaluations and checkpoints make it "
                "jump; waiting for pods is not in it.",
                panels.SECONDS,
            ),
            Query(left),
        ),
        number(
            small(
                "Accuracy",
                "Held-out accuracy at the last evaluation, by set. Good: above where it began.",
                panels.SHARE,
            ),
            Query(JOB.newest("gvm_accuracy", "set"), "{{set}}"),
            steps=((None, "green"),),
        ),
        number(
            small(
                "Accept rate",
                "Accepted share of the last iteration's samples. Good: it rises; near 0 or 1 there is little to learn.",
                panels.SHARE,
            ),
            Query(JOB.newest("gvm_accept_rate")),
            steps=((None, "red"), (0.02, "yellow"), (0.1, "green"), (0.95, "yellow")),
        ),
        number(
            small(
                "Variance saved",
                "How much smaller the gradient's variance is than that of the same number of samples shared out "
                "evenly, over the last 10 iterations: realised as the samples show it (not under schedule sequential), "
                "predicted as the allocator expects it. Good: above 0.",
                panels.SHARE,
            ),
            Query(JOB.newest("gvm_variance_saved", where=_REALISED), "realised"),
            Query(JOB.newest("gvm_variance_saved", where=_PREDICTED), "predicted"),
            steps=((None, "red"), (-0.01, "yellow"), (0.05, "green")),
        ),
        number(
            small(
                "Samples a second",
                "Training samples over the time in which they were drawn, last iteration. Good: steady, and near what "
                "the servers can do (row “vLLM servers”).",
                panels.SAMPLES_PER_SECOND,
            ),
            Query(JOB.newest("gvm_samples_per_second")),
        ),
    )


def _outcomes() -> tuple[panels.Lines, ...]:
    return (
        lines(
            Frame(
                "Accuracy by set",
                "Held-out accuracy at each evaluation. Good: it rises and then stays; a fall while the accept rate "
                "still rises means that the policy learns the training prompts by heart.",
                panels.SHARE,
                width=12,
                none="no evaluation yet",
            ),
            Query(JOB.newest("gvm_accuracy", "set"), "{{set}}"),
            low=0,
            high=1,
        ),
        lines(
            Frame(
                "Accept rate and reward",
                "Accepted share and mean reward of the judged training samples. Under gvm the share stays below that "
                "of the uniform policy, since hard prompts get more samples: compare runs by accuracy, not by this.",
                panels.SHARE,
                width=12,
            ),
            Query(JOB.newest("gvm_accept_rate"), "accepted"),
            Query(JOB.newest("gvm_reward_mean"), "mean reward"),
            low=0,
            high=1,
        ),
    )


def _updates() -> tuple[panels.Lines, ...]:
    quarter = partial(Frame, width=6)
    lengths = [Query(JOB.quantile(q, "gvm_response_tokens"), name) for q, name in _QUANTILES]
    return (
        lines(
            quarter(
                "Loss",
                "Mean loss of the last iteration's updates. Its height says little; look for jumps. A gap is a loss "
                "that is no finite number, and an alert.",
                "none",
            ),
            Query(JOB.newest("gvm_loss"), "loss"),
        ),
        lines(
            quarter(
                "KL divergence",
                "Nats a token: how far the updates of an iteration moved the policy from the one that sampled, and "
                "how far it is from the reference (0 where klCoefficient is 0). Good: the first below 0.1.",
                panels.NATS,
            ),
            Query(JOB.newest("gvm_policy_kl_nats"), "from the sampling policy"),
            Query(JOB.newest("gvm_reference_kl_nats"), "from the reference"),
        ),
        lines(
            quarter(
                "Entropy",
                "Of the policy, nats a token. Good: it falls slowly. Near 0 the samples are all alike and learning "
                "ends.",
                panels.NATS,
            ),
            Query(JOB.newest("gvm_entropy_nats"), "entropy"),
            low=0,
        ),
        lines(
            quarter(
                "Gradient norm",
                "L2 norm before clipping, mean over the updates. Good: without a trend; peaks are clipped to "
                "learner.maxGradNorm.",
                "none",
            ),
            Query(JOB.newest("gvm_grad_norm"), "norm"),
            low=0,
        ),
        lines(
            quarter(
                "Clipped tokens",
                "Share of the tokens whose importance ratio is clipped. Good: below 10 %; more means that an "
                "iteration has too many updates or too high a learning rate. Of learner against server: the share of "
                "the tokens that importanceCap cuts off, and how far the mean weight is from 1. Good: both near 0.",
                panels.SHARE,
            ),
            Query(JOB.newest("gvm_clip_fraction"), "clipped"),
            Query(JOB.newest("gvm_importance_truncated_fraction"), "above importanceCap"),
            Query(f"abs({JOB.newest('gvm_importance_weight')} - 1)", "mean importance weight from 1"),
            low=0,
        ),
        lines(
            quarter(
                "Response length",
                "Tokens of the training samples; a quantile is read off buckets that double. Good: no drift towards "
                "maxResponseTokens.",
                panels.TOKENS,
            ),
            *lengths,
            Query(JOB.mean("gvm_response_tokens"), "mean"),
            low=0,
        ),
        lines(
            quarter(
                "Truncated responses",
                "Share of the samples that ran into maxResponseTokens: they are judged as they stand, mostly rejected. "
                "Good: a few per cent.",
                panels.SHARE,
            ),
            Query(JOB.newest("gvm_truncated_fraction"), "truncated"),
            low=0,
        ),
        lines(
            quarter("Learning rate", "Of the last update: warm-up, then constant.", "sci"),
            Query(JOB.newest("gvm_learning_rate"), "learning rate"),
            low=0,
        ),
    )
