"""Which spec a job is run by.

not started       the spec as it is · refused where it is invalid
started           unchanged · changed where it may be · changed where it may not be · spoilt · defaults written out
ConfigMap         gone · of another version · spoilt by hand
"""

from typing import Any

import pytest

from gvm_api.load import validate_job
from gvm_operator import manifests
from gvm_operator.acceptance import Acceptance, accept
from gvm_operator.observed import Observed


def judged(job: dict[str, Any], started: dict[str, Any] | None = None, text: str | None = None) -> Acceptance:
    if started is not None:
        text = manifests.job_file(validate_job(started))
    data = {"data": {"job.yaml": text}} if text is not None else {}
    config = {"kind": "ConfigMap", "metadata": {"name": "a-job"}, **data}
    return accept(Observed(job=job, children=(config,) if started is not None or text is not None else ()))


def test_a_good_job_is_accepted_as_it_is(make_job) -> None:
    found = judged(make_job(rollout={"replicas": 3}))
    assert (found.reason, found.message) == ("Accepted", "")
    assert found.job is not None
    assert found.job.spec.rollout.replicas == 3


def test_what_the_api_server_adds_is_no_fault(make_job) -> None:
    job = make_job()
    job["metadata"] |= {"uid": "u", "resourceVersion": "7", "generation": 2, "managedFields": [{"manager": "kubectl"}]}
    job["status"] = {"phase": "Running", "field of another version": 1}
    assert judged(job).reason == "Accepted"


def test_every_fault_of_an_invalid_spec_is_named(make_job) -> None:
    found = judged(make_job(rollout={"replicas": 0}, learner={"zeroStage": 9}))
    assert (found.job, found.reason) == (None, "InvalidSpec")
    first, second = found.message.split("; ", 1)
    assert first.startswith("spec.rollout.replicas: 0 is refused")
    assert "spec.learner.zeroStage: 9 is refused" in second


def test_a_message_stays_within_a_thousand_characters(make_job) -> None:
    unknown = {f"field{n}": n for n in range(100)}
    assert len(judged(make_job(rollout=unknown)).message) <= 1000


def test_a_name_too_long_for_its_children_is_refused(make_job) -> None:
    found = judged(make_job(name="x" * 60))
    assert found.reason == "InvalidSpec"
    assert found.message.startswith("metadata.name:")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("rollout", "replicas", 5),
        ("runPolicy", "suspend", True),
        ("runPolicy", "ttlSecondsAfterFinished", 60),
        ("runPolicy", "activeDeadlineSeconds", 60),
        ("runPolicy", "startupDeadlineSeconds", 60),
    ],
)
def test_what_may_change_is_taken_up(make_job, section: str, field: str, value: Any) -> None:
    found = judged(make_job(**{section: {field: value}}), started=make_job())
    assert found.reason == "Accepted"
    assert found.job is not None
    assert found.job.spec.model_dump(mode="json")[section][field] == value


@pytest.mark.parametrize(
    ("section", "fields", "path"),
    [
        ("model", {"path": "other"}, "spec.model.path"),
        ("algorithm", {"seed": 5}, "spec.algorithm.seed"),
        ("evaluation", {"everyIterations": 7}, "spec.evaluation.everyIterations"),
        ("runPolicy", {"cleanupPolicy": "All"}, "spec.runPolicy.cleanupPolicy"),
        ("rollout", {"env": [{"name": "A", "value": "1"}]}, "spec.rollout.env"),
        ("storage", {"size": "1Gi"}, "spec.storage.size"),
    ],
)
def test_what_may_not_change_is_named_and_not_taken_up(
    make_job, section: str, fields: dict[str, Any], path: str
) -> None:
    found = judged(make_job(**{section: fields}), started=make_job())
    assert found.reason == "ImmutableField"
    assert found.message.startswith(f"{path}: cannot change once the job was started; change it back")
    assert found.job is not None
    assert found.job.spec == validate_job(make_job()).spec


def test_both_kinds_of_changes_at_once_are_told_apart(make_job) -> None:
    found = judged(make_job(rollout={"replicas": 5, "concurrency": 1}), started=make_job())
    assert found.message.startswith("spec.rollout.concurrency:")
    assert found.job is not None
    assert (found.job.spec.rollout.replicas, found.job.spec.rollout.concurrency) == (5, 256)


def test_defaults_that_are_written_out_are_no_change(make_job) -> None:
    written_out = {**make_job(), "spec": validate_job(make_job()).spec.model_dump(mode="json", exclude_none=True)}
    assert judged(written_out, started=make_job()).reason == "Accepted"
    assert judged(make_job(), started=written_out).reason == "Accepted"


def test_a_list_that_is_put_in_another_order_is_a_change(make_job) -> None:
    sets = [{"name": "x", "path": "x"}, {"name": "y", "path": "y"}]
    job, other = make_job(evaluation={"datasets": sets}), make_job(evaluation={"datasets": sets[::-1]})
    assert judged(other, started=job).reason == "ImmutableField"


def test_a_spec_that_is_spoilt_later_leaves_the_one_that_was_started(make_job) -> None:
    found = judged(make_job(rollout={"replicas": 0}), started=make_job(rollout={"replicas": 2}))
    assert found.reason == "InvalidSpec"
    assert found.job is not None
    assert found.job.spec.rollout.replicas == 2


@pytest.mark.parametrize("text", [None, "not: a job", "a: [", "{}", "kind: GVMTrainingJob\nspec: {gone: 1}"])
def test_without_a_record_that_can_be_read_the_object_is_what_there_is(make_job, text: str | None) -> None:
    found = judged(make_job(rollout={"replicas": 2}), text=text)
    assert found.reason == "Accepted"
    assert found.job is not None
    assert found.job.spec.rollout.replicas == 2
    assert judged(make_job(rollout={"replicas": 0}), text=text).job is None
