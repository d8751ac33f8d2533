"""The chart's alerts, by promtool: each fires when it should, says so in whole sentences, and is silent otherwise.

operator   gone · resync stale · looks that fail
jobs       failed lately · waiting · learner restarting · stalled, in a first iteration too
           diverging: not finite, KL, accuracy · parity · verifier · retries · variance
all        known metrics only · a paragraph each in docs/operations.md · every one has a case that fires and one that
           does not
"""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import alert_groups, rules
from needed import HAS_PROMETHEUS, NO_PROMETHEUS

from gvm_metrics.catalogue import ALLOCATOR, LEARNER, OPERATOR

ROOT = Path(__file__).parents[2]
JOB = {"namespace": "ml", "job": "a"}
needs_promtool = pytest.mark.skipif(not HAS_PROMETHEUS, reason=NO_PROMETHEUS)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series as promtool writes them, a value a minute, and what is to be at a time."""

    alert: str
    why: str
    series: dict[str, str]
    at: str
    says: str = ""
    """$value as the description prints it; empty where nothing is to fire."""
    labels: dict[str, str] = field(default_factory=lambda: JOB)
    sign: str = ""
    """Which of the alerts of one name."""


def job(metric: str, **more: str) -> str:
    labels = {**JOB, "instance": "10.0.0.1:8000", **more}
    return f"{metric}{{{', '.join(f'{name}={chr(34)}{value}{chr(34)}' for name, value in labels.items())}}}"


RESYNC = 'gvm_operator_last_resync_timestamp_seconds{namespace="gvm-system", pod="operator-1"}'
ERRORS = 'gvm_operator_reconcile_errors_total{namespace="gvm-system", reason="Forbidden"}'
LAST, TOOK = job("gvm_last_iteration_timestamp_seconds"), job("gvm_iteration_seconds")
OPERATOR_POD = {"namespace": "gvm-system", "pod": "operator-1"}
CASES = (
    Case(alert="GVMOperatorAbsent", why="no series", series={}, at="11m", says="-", labels={"namespace": "gvm-system"}),
    Case(alert="GVMOperatorAbsent", why="for a moment only", series={}, at="9m"),
    Case(alert="GVMOperatorAbsent", why="there", series={RESYNC: "0+60x20"}, at="15m"),
    Case(
        alert="GVMOperatorAbsent",
        why="another release's does not count",
        series={RESYNC.replace("gvm-system", "other"): "0+60x20"},
        at="15m",
        says="-",
        labels={"namespace": "gvm-system"},
    ),
    Case(
        alert="GVMOperatorResyncStale",
        why="listed last at 0",
        series={RESYNC: "0x30"},
        at="15m",
        says="15m 0s",
        labels=OPERATOR_POD,
    ),
    Case(alert="GVMOperatorResyncStale", why="listed each minute", series={RESYNC: "0+60x30"}, at="15m"),
    Case(alert="GVMOperatorResyncStale", why="late once, then back", series={RESYNC: "0x8 540+60x20"}, at="15m"),
    Case(
        alert="GVMOperatorReconcileErrors",
        why="an error a minute",
        series={ERRORS: "0+1x60"},
        at="40m",
        says="-",
        labels={"namespace": "gvm-system", "reason": "Forbidden"},
    ),
    Case(alert="GVMOperatorReconcileErrors", why="one error long ago", series={ERRORS: "0 1x60"}, at="40m"),
    Case(
        alert="GVMJobFailed",
        why="failed now",
        series={job("gvm_job_phase", phase="Failed"): "0x9 1x60"},
        at="12m",
        says="-",
    ),
    Case(
        alert="GVMJobFailed", why="two hours ago", series={job("gvm_job_phase", phase="Failed"): "0x9 1x200"}, at="3h"
    ),
    Case(alert="GVMJobFailed", why="runs", series={job("gvm_job_phase", phase="Running"): "1x60"}, at="30m"),
    Case(
        alert="GVMJobWaiting",
        why="since 0",
        series={job("gvm_job_waiting_since_timestamp_seconds"): "0x60"},
        at="20m",
        says="20m 0s",
    ),
    Case(
        alert="GVMJobWaiting",
        why="for 10 minutes",
        series={job("gvm_job_waiting_since_timestamp_seconds"): "600x60"},
        at="20m",
    ),
    Case(
        alert="GVMJobWaiting",
        why="no more",
        series={job("gvm_job_waiting_since_timestamp_seconds"): "0x14 stale"},
        at="20m",
    ),
    Case(
        alert="GVMLearnerRestarting",
        why="three times in an hour",
        series={job("gvm_job_restarts"): "1x20 2x10 3x5 4x60"},
        at="50m",
        says="3",
    ),
    Case(alert="GVMLearnerRestarting", why="once", series={job("gvm_job_restarts"): "3x20 4x60"}, at="50m"),
    Case(
        alert="GVMLearnerRestarting", why="often, but long ago", series={job("gvm_job_restarts"): "0x9 5x200"}, at="2h"
    ),
    Case(
        alert="GVMLearnerRestarting",
        why="a new operator pod",
        series={
            job("gvm_job_restarts", pod="old"): "3x20 stale",
            job("gvm_job_restarts", pod="new"): "_x20 3x40",
        },
        at="50m",
    ),
    Case(
        alert="GVMJobStalled",
        why="iterations of 20 minutes, none for two hours",
        series={LAST: "0x200", TOOK: "1200x200"},
        at="2h",
        says="2h 0m 0s",
    ),
    Case(
        alert="GVMJobStalled",
        why="five times 20 minutes are not over",
        series={LAST: "0x200", TOOK: "1200x200"},
        at="95m",
    ),
    Case(alert="GVMJobStalled", why="short ones have an hour", series={LAST: "0x200", TOOK: "10x200"}, at="55m"),
    Case(
        alert="GVMJobStalled",
        why="short ones have no more",
        series={LAST: "0x200", TOOK: "10x200"},
        at="66m",
        says="1h 6m 0s",
    ),
    Case(alert="GVMJobStalled", why="the first has an hour", series={LAST: "0x200"}, at="59m"),
    Case(alert="GVMJobStalled", why="the first has no more", series={LAST: "0x200"}, at="66m", says="1h 6m 0s"),
    Case(alert="GVMJobStalled", why="the learner has ended", series={LAST: "0x60 stale", TOOK: "10x60 stale"}, at="2h"),
    Case(
        alert="GVMJobDiverging",
        why="the loss is NaN",
        series={job("gvm_loss"): "1x9" + " NaN" * 9},
        at="12m",
        says="-",
        sign="not finite",
    ),
    Case(
        alert="GVMJobDiverging",
        why="the gradient is infinite",
        series={job("gvm_loss"): "1x20", job("gvm_grad_norm"): "Inf " * 20},
        at="12m",
        says="-",
        sign="not finite",
    ),
    Case(
        alert="GVMJobDiverging",
        why="finite",
        series={job("gvm_loss"): "-3x20", job("gvm_grad_norm"): "9x20"},
        at="12m",
        sign="not finite",
    ),
    Case(
        alert="GVMJobDiverging",
        why="KL 0.75",
        series={job("gvm_policy_kl_nats"): "0.01x5 0.75x20"},
        at="15m",
        says="0.75",
        sign="KL divergence",
    ),
    Case(
        alert="GVMJobDiverging",
        why="KL 0.4",
        series={job("gvm_policy_kl_nats"): "0.4x20"},
        at="15m",
        sign="KL divergence",
    ),
    Case(
        alert="GVMJobDiverging",
        why="0.8 at best, 0.55 now, on one of two sets",
        series={
            job("gvm_accuracy", set="math"): "0.6x9 0.8x9 0.55x60",
            job("gvm_accuracy", set="code"): "0.3x9 0.4x9 0.35x60",
        },
        at="1h",
        says="25%",
        labels={**JOB, "set": "math"},
        sign="accuracy",
    ),
    Case(
        alert="GVMJobDiverging",
        why="it rises",
        series={job("gvm_accuracy", set="math"): "0.1+0.01x60"},
        at="1h",
        sign="accuracy",
    ),
    Case(
        alert="GVMParityLost",
        why="0.09 of 0.1",
        series={job("gvm_parity_mean_abs_nats"): "0.09x20", job("gvm_parity_tolerance_nats"): "0.1x20"},
        at="5m",
        says="90%",
    ),
    Case(
        alert="GVMParityLost",
        why="0.02 of 0.1",
        series={job("gvm_parity_mean_abs_nats"): "0.02x20", job("gvm_parity_tolerance_nats"): "0.1x20"},
        at="5m",
    ),
    Case(
        alert="GVMVerifierFailing",
        why="10 % of the samples, by two causes",
        series={
            job("gvm_verifier_failures_total", cause="timeout"): "0+3x90",
            job("gvm_verifier_failures_total", cause="error"): "0+7x90",
            job("gvm_samples_total", stage="pilot"): "0+40x90",
            job("gvm_samples_total", stage="main"): "0+60x90",
        },
        at="80m",
        says="10%",
    ),
    Case(
        alert="GVMVerifierFailing",
        why="2 %",
        series={
            job("gvm_verifier_failures_total", cause="error"): "0+2x90",
            job("gvm_samples_total", stage="main"): "0+100x90",
        },
        at="80m",
    ),
    Case(
        alert="GVMVerifierFailing",
        why="nothing drawn",
        series={
            job("gvm_verifier_failures_total", cause="error"): "0x90",
            job("gvm_samples_total", stage="main"): "0x90",
        },
        at="80m",
    ),
    Case(
        alert="GVMRequestRetries",
        why="two a minute",
        series={
            job("gvm_retries_total", target="rollout"): "0+2x120",
            job("gvm_retries_total", target="allocator"): "0x120",
        },
        at="100m",
        says="60",
        labels={**JOB, "target": "rollout"},
    ),
    Case(
        alert="GVMRequestRetries",
        why="100 at once, after a restart",
        series={job("gvm_retries_total", target="rollout"): "0x9 100x120"},
        at="45m",
    ),
    Case(
        alert="GVMVarianceNotSaved",
        why="1.25 for hours, with an iteration that was not measured",
        series={job("gvm_variance_ratio", kind="realised"): "1.25x100" + " NaN" * 5 + " 1.25x300"},
        at="6h",
        says="125%",
    ),
    Case(
        alert="GVMVarianceNotSaved",
        why="below 1 but for one bad iteration",
        series={job("gvm_variance_ratio", kind="realised"): "0.6x100 7x20 0.6x300"},
        at="4h",
    ),
    Case(
        alert="GVMVarianceNotSaved",
        why="the job is over",
        series={job("gvm_variance_ratio", kind="realised"): "1.25x100 stale"},
        at="2h45m",
    ),
    Case(
        alert="GVMVarianceNotSaved",
        why="predicted does not count",
        series={job("gvm_variance_ratio", kind="predicted"): "1.25x400"},
        at="6h",
    ),
)


def described(rule: dict[str, Any], case: Case) -> dict[str, str]:
    """The annotations with labels and value filled in."""
    texts = {
        name: re.sub(r"{{ \$labels\.(\w+) }}", lambda at: case.labels[at[1]], text)
        for name, text in rule["annotations"].items()
    }
    return {name: re.sub(r"{{ [^}]*\$value[^}]*}}", case.says, text) for name, text in texts.items()}


def rule_of(case: Case) -> dict[str, Any]:
    (rule,) = (r for r in rules() if r["alert"] == case.alert and r["labels"].get("sign", "") == case.sign)
    return rule


@needs_promtool
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert} {case.sign} {case.why}")
def test_an_alert_fires_when_it_should(case: Case, tmp_path: Path) -> None:
    rule = rule_of(case)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    firing = []
    if case.says:
        firing = [{"exp_labels": {**case.labels, **rule["labels"]}, "exp_annotations": described(rule, case)}]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": firing}],
    }
    content = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(content))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": alert_groups()}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list(rules()))} rules found" in done.stdout


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: f"{rule['alert']} {rule['labels'].get('sign', '')}")
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(rule: dict[str, Any]) -> None:
    own = [case for case in CASES if rule_of(case) is rule]
    assert {bool(case.says) for case in own} == {True, False}


def test_alerts_use_metrics_that_there_are() -> None:
    known = {family.name: family for family in (*LEARNER, *ALLOCATOR, *OPERATOR)}
    for rule in rules():
        named = set(re.findall(r"\bgvm_\w+", rule["expr"]))
        assert named, rule["alert"]
        assert named <= known.keys(), rule["alert"]
        labels = {label for name in named for label in known[name].labels} | {"namespace", "pod"}
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= labels, rule["alert"]


def test_every_alert_has_its_paragraph_in_the_operations_page_and_its_row_in_the_install_page() -> None:
    alerts = list(dict.fromkeys(rule["alert"] for rule in rules()))
    section = (ROOT / "docs/operations.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    paragraphs = dict(re.findall(r"^### (\w+)\n\n(.+?)\n(?=\n###|\Z)", section, flags=re.MULTILINE | re.DOTALL))
    assert list(paragraphs) == alerts
    assert all(len(text) > 150 for text in paragraphs.values())
    listed = re.findall(r"^\| (GVM\w+) \| ([\w, ]+) \|", (ROOT / "docs/install.md").read_text(), flags=re.MULTILINE)
    severities = {alert: [r["labels"]["severity"] for r in rules() if r["alert"] == alert] for alert in alerts}
    assert listed == [(alert, ", ".join(dict.fromkeys(severities[alert]))) for alert in alerts]
