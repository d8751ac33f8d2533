"""The status that is written of a job.

phase         Pending · Starting · Running · as the job is on its way down · refused
learner       says Starting, Running, nothing · its pods wait, fail, are of an earlier attempt
servers       all, some, none ready · troubled · one on its way out · out of the learner's reach
figures       the learner's · NaN and infinite ones · kept where the learner cannot be asked
reward        every sample judged, a few without a verdict, many
refusals      of the API server, told once
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gvm_api.load import validate_job
from gvm_api.status import JobStatus
from gvm_api.wire import Progress, Waiting
from gvm_operator import conditions, events, job_status
from gvm_operator.acceptance import Acceptance
from gvm_operator.actions import Delete, Refusal
from gvm_operator.execution import status_patch
from gvm_operator.gang import Gang
from gvm_operator.observed import Observed

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
RUN = Gang(state="run", attempt=0)
WORKING = Progress(phase="Running", iteration=3, max_iterations=20, step=12, accuracy=0.5, accept_rate=0.25)


def live(
    make_job: Any,
    *pods: Any,
    progress: Progress | None = None,
    gang: Gang = RUN,
    before: JobStatus | None = None,
    now: datetime = NOW,
    **spec: Any,
) -> JobStatus:
    job = make_job(**spec)
    job["metadata"]["generation"] = 7
    observed = Observed(job=job, pods=pods, progress=progress)
    return job_status.live(observed, before or JobStatus(), Acceptance(job=validate_job(job)), gang, now)


def condition(status: JobStatus, kind: str) -> tuple[str, str, str]:
    found = conditions.find(status.conditions, kind)
    assert found is not None
    return found.status, found.reason, found.message


@pytest.fixture
def team(make_pod: Any) -> tuple[Any, ...]:
    """A server, an allocator and a learner that are all up."""
    return make_pod("rollout"), make_pod("allocator"), make_pod("learner")


def test_a_job_is_pending_until_a_pod_has_a_node(make_job, make_pod) -> None:
    unplaced = [make_pod(role, phase="Pending", conditions=[]) for role in ("rollout", "learner")]
    assert live(make_job).phase == "Pending"
    assert live(make_job, *unplaced).phase == "Pending"
    placed = make_pod("allocator", phase="Pending", conditions=[{"type": "PodScheduled", "status": "True"}])
    assert live(make_job, *unplaced, placed).phase == "Starting"
    gone = make_pod("rollout", phase="Failed")
    assert live(make_job, *unplaced, gone).phase == "Pending", "a pod that has ended holds no node"


def test_a_job_runs_when_its_learner_says_so(make_job, team) -> None:
    starting = live(make_job, *team, progress=Progress(phase="Starting", message="loading the policy"))
    assert starting.phase == "Starting"
    assert condition(starting, "LearnerRunning") == ("False", "Starting", "loading the policy")
    assert starting.message == "loading the policy"
    running = live(make_job, *team, progress=WORKING)
    assert running.phase == "Running"
    assert condition(running, "LearnerRunning") == ("True", "Running", "iteration 3 of 20")


def test_without_the_learner_s_word_a_job_runs_when_all_its_pods_are_ready(make_job, make_pod, team) -> None:
    running = live(make_job, *team)
    assert running.phase == "Running"
    assert "cannot be read from the allocator" in running.message
    for role in ("rollout", "allocator", "learner"):
        others = [pod for pod in team if role not in pod["metadata"]["name"]]
        assert live(make_job, *others).phase == "Starting"
    alone = live(make_job, make_pod("learner"))
    assert condition(alone, "LearnerRunning")[1:] == ("Starting", "the learner waits for servers and allocator")


@pytest.mark.parametrize("progress", [None, WORKING])
def test_a_job_begins_to_run_with_its_servers_there_and_goes_on_where_it_loses_some(
    make_job, make_pod, team, progress: Progress | None
) -> None:
    learner = make_pod("learner")
    resumed = live(make_job, learner, progress=progress)
    assert resumed.phase == "Starting", "what it said before a pause may still stand"
    running = live(make_job, *team, progress=progress, before=resumed)
    assert live(make_job, learner, progress=progress, before=running).phase == "Running"
    says_otherwise = live(make_job, learner, progress=Progress(phase="Starting"), before=running)
    assert says_otherwise.phase == "Starting"


def test_the_word_of_a_learner_before_this_one_says_nothing_about_it(make_job, make_pod, team) -> None:
    old, new = make_pod(name="0", attempt=0, phase="Failed"), make_pod(name="1", attempt=1)
    servers, restarted = team[:2], Gang(state="run", attempt=1)
    before = live(make_job, *servers, make_pod(name="0"), progress=said_by("uid-0"))
    assert (before.phase, before.iteration) == ("Running", 3)
    stale = live(make_job, *servers, old, new, progress=said_by("uid-0"), gang=restarted, before=before)
    assert (stale.phase, stale.iteration, stale.accuracy) == ("Starting", 3, 0.5), "what was reached is still shown"
    assert condition(stale, "LearnerRunning")[:2] == ("False", "Starting")
    own = live(make_job, *servers, old, new, progress=said_by("uid-1"), gang=restarted, before=stale)
    assert own.phase == "Running"


def test_a_learner_that_takes_a_deleted_one_s_place_has_not_spoken_yet(make_job, make_pod, team) -> None:
    servers, leaving = team[:2], going(make_pod(name="first"))
    status = live(make_job, *servers, leaving, make_pod(name="second"), progress=said_by("uid-first"))
    assert (status.phase, status.iteration) == ("Starting", 0)


def test_a_job_made_anew_on_the_volume_of_one_that_succeeded_is_not_done_by_its_word(make_job, team) -> None:
    done = said_by("uid-of-the-old-job").model_copy(update={"phase": "Succeeded", "iteration": 20})
    status = live(make_job, *team, progress=done)
    assert (status.phase, status.iteration) == ("Starting", 0)
    assert job_status.result(Observed(job=make_job(), pods=team, progress=done), status) == "0 iterations"


def said_by(uid: str) -> Progress:
    return WORKING.model_copy(update={"learner_id": uid})


def going(pod: Any) -> Any:
    pod["metadata"]["deletionTimestamp"] = "2026-03-02T12:00:00Z"
    return pod


@pytest.mark.parametrize("role", ["rollout", "allocator", "learner"])
@pytest.mark.parametrize("why", ["it is going", "it is another job's"])
def test_a_pod_that_is_no_longer_the_job_s_is_none_of_its_troubles(
    make_job, make_pod, team, role: str, why: str
) -> None:
    killed = make_pod(role, "0-old", phase="Failed", terminated={"exitCode": 137, "reason": "Error"})
    if why == "it is going":
        going(killed)
    else:
        killed["metadata"]["labels"]["gvm.rlhflow.dev/job-uid"] = "uid-of-the-old-job"
    others = [pod for pod in team if role not in pod["metadata"]["name"]]
    status = live(make_job, *others, killed)
    verdict, reason, message = condition(status, CONDITIONS[role])
    assert (verdict, reason) == ("False", "Starting"), message
    assert getattr(status, role).model_dump() == {"desired": 1, "ready": 0, "failed": 0, "summary": "0/1"}
    assert live(make_job, killed).phase == "Pending", "no pod of this job has a node"


def test_a_gang_runs_when_all_its_pods_do(make_job, make_pod, team) -> None:
    status = live(make_job, *team, progress=WORKING, learner={"replicas": 2})
    assert condition(status, "LearnerRunning") == ("False", "Starting", "1/2 learner pods run")
    assert live(make_job, *team, make_pod(name="2"), progress=WORKING, learner={"replicas": 2}).phase == "Running"


def test_pods_of_an_earlier_attempt_do_not_count(make_job, make_pod) -> None:
    servers = make_pod("rollout"), make_pod("allocator")
    old, new = make_pod(name="0", attempt=0, phase="Failed"), make_pod(name="1", attempt=1)
    status = live(make_job, *servers, old, new, progress=WORKING, gang=Gang(state="run", attempt=1))
    assert (status.learner.summary, status.learner.failed, status.restarts) == ("1/1", 0, 1)
    assert status.phase == "Running"


def test_the_servers_that_are_ready_are_counted(make_job, make_pod) -> None:
    up, going = make_pod("rollout", "r1"), make_pod("rollout", "r2")
    going["metadata"]["deletionTimestamp"] = "2026-03-02T12:00:00Z"
    failed = make_pod("rollout", "r3", phase="Failed")
    status = live(make_job, up, going, failed, rollout={"replicas": 3})
    assert status.rollout.model_dump() == {"desired": 3, "ready": 1, "failed": 1, "summary": "1/3"}
    ready = live(make_job, up, rollout={"replicas": 1})
    assert condition(ready, "RolloutReady") == ("True", "Ready", "1/1 pods are ready")
    assert condition(ready, "AllocatorReady") == ("False", "Starting", "0/1 pods are ready")


WAITING = Waiting(who="sampling", target="http://10.0.0.7:8000", cause="Connection refused", since=NOW.timestamp())
SAYS = "sampling has waited since 2026-03-02T12:00:00Z for http://10.0.0.7:8000: Connection refused"


def test_servers_that_the_learner_cannot_reach_are_not_ready_though_their_pods_are(make_job, team) -> None:
    stuck = live(make_job, *team, progress=WORKING.model_copy(update={"waiting": WAITING}), now=LATER)
    assert condition(stuck, "RolloutReady") == ("False", "ServersUnreachable", SAYS)
    assert (stuck.phase, stuck.message, stuck.rollout.summary) == ("Running", SAYS, "1/1")
    assert condition(stuck, "LearnerRunning")[:2] == ("True", "Running")
    again = live(make_job, *team, progress=WORKING, before=stuck, now=LATER)
    assert condition(again, "RolloutReady") == ("True", "Ready", "1/1 pods are ready")
    assert again.message == "iteration 3 of 20"


def test_what_the_learner_waits_for_is_said_while_the_lost_pod_s_replacement_starts(make_job, make_pod, team) -> None:
    others = [pod for pod in team if "rollout" not in pod["metadata"]["name"]]
    loading = make_pod("rollout", conditions=[{"type": "PodScheduled", "status": "True"}])
    status = live(make_job, *others, loading, progress=WORKING.model_copy(update={"waiting": WAITING}))
    assert condition(status, "RolloutReady") == ("False", "ServersUnreachable", SAYS)
    assert status.rollout.summary == "0/1"


def test_trouble_that_kubernetes_knows_of_says_more_than_that_servers_cannot_be_reached(
    make_job, make_pod, team
) -> None:
    others = [pod for pod in team if "rollout" not in pod["metadata"]["name"]]
    broken = make_pod("rollout", **TROUBLES["CrashLoopBackOff"])
    status = live(make_job, *others, broken, progress=WORKING.model_copy(update={"waiting": WAITING}))
    assert condition(status, "RolloutReady")[1] == "CrashLoopBackOff"


def test_the_last_word_of_a_gang_that_failed_is_no_wait(make_job, team) -> None:
    failed = Gang(state="wait", attempt=0, reason="Error", message="exit code 1")
    status = live(make_job, *team, progress=WORKING.model_copy(update={"waiting": WAITING}), gang=failed)
    assert condition(status, "RolloutReady")[:2] == ("True", "Ready")


TROUBLES = {
    "ImagePullBackOff": {"waiting": {"reason": "ErrImagePull"}, "phase": "Pending"},
    "OOMKilled": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    "CrashLoopBackOff": {
        "waiting": {"reason": "CrashLoopBackOff"},
        "last": {"exitCode": 1, "reason": "Error", "message": "no CUDA device"},
    },
    "Evicted": {"phase": "Failed", "containerStatuses": [], "reason": "Evicted", "message": "low on disk"},
    "Unschedulable": {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}],
    },
}
CONDITIONS = {"rollout": "RolloutReady", "allocator": "AllocatorReady", "learner": "LearnerRunning"}


@pytest.mark.parametrize("role", CONDITIONS)
@pytest.mark.parametrize("reason", TROUBLES)
def test_trouble_with_a_pod_is_in_its_role_s_condition_and_in_the_message(
    make_job, make_pod, team, role: str, reason: str
) -> None:
    others = [pod for pod in team if role not in pod["metadata"]["name"]]
    status = live(make_job, *others, make_pod(role, **TROUBLES[reason]), progress=WORKING)
    verdict, its_reason, message = condition(status, CONDITIONS[role])
    assert (verdict, its_reason) == ("False", reason)
    assert message.startswith(f"pod a-{role}-x: ")
    assert status.message == message


def test_of_several_troubles_the_first_condition_s_is_the_message(make_job, make_pod) -> None:
    stuck = [make_pod(role, phase="Pending", waiting={"reason": "ErrImagePull"}) for role in CONDITIONS]
    assert live(make_job, *stuck).message.startswith("pod a-rollout-x: ")


def test_a_ready_server_s_past_is_no_trouble(make_job, make_pod, team) -> None:
    restarted = make_pod("rollout", last={"exitCode": 1, "reason": "Error"})
    assert condition(live(make_job, restarted, *team[1:]), "RolloutReady")[0] == "True"


def test_a_gang_that_waits_for_its_restart_says_why(make_job, team) -> None:
    gang = Gang(state="wait", attempt=2, reason="OOMKilled", message="pod x: OOMKilled; the gang restarts")
    status = live(make_job, *team, progress=WORKING, gang=gang)
    assert (status.phase, status.restarts) == ("Starting", 2)
    assert condition(status, "LearnerRunning") == ("False", "OOMKilled", "pod x: OOMKilled; the gang restarts")
    assert status.message == "pod x: OOMKilled; the gang restarts"


def test_a_job_that_cannot_be_run_says_so_and_keeps_the_rest(make_job) -> None:
    job = make_job()
    acceptance = Acceptance(job=None, reason="InvalidSpec", message="spec.rollout.replicas: 0 is refused")
    status = job_status.refused(Observed(job=job), JobStatus(), acceptance, NOW)
    assert (status.phase, status.message) == ("Pending", "spec.rollout.replicas: 0 is refused")
    assert condition(status, "Accepted")[:2] == ("False", "InvalidSpec")
    assert status.start_time is None


def test_the_start_time_stays_and_the_generation_is_the_one_that_was_judged(make_job, team) -> None:
    first = live(make_job, *team)
    assert (first.start_time, first.observed_generation) == ("2026-03-02T12:00:00Z", 7)
    assert all(each.observed_generation == 7 for each in first.conditions)
    second = live(make_job, *team, before=first, now=LATER)
    assert second == first


def test_transition_times_move_with_the_status_alone(make_job, make_pod, team) -> None:
    first = live(make_job, *team, progress=WORKING)
    second = live(make_job, *team[1:], progress=replace_iteration(WORKING, 4), before=first, now=LATER)
    times = {each.type: each.last_transition_time for each in second.conditions}
    assert times == {
        "Accepted": "2026-03-02T12:00:00Z",
        "RolloutReady": "2026-03-02T12:05:00Z",
        "AllocatorReady": "2026-03-02T12:00:00Z",
        "LearnerRunning": "2026-03-02T12:00:00Z",
    }
    assert condition(second, "LearnerRunning")[2] == "iteration 4 of 20"


def replace_iteration(progress: Progress, iteration: int) -> Progress:
    return progress.model_copy(update={"iteration": iteration})


def test_the_learner_s_figures_are_in_the_status(make_job, team) -> None:
    status = live(make_job, *team, progress=WORKING)
    assert (status.iteration, status.step, status.accuracy, status.accept_rate) == (3, 12, 0.5, 0.25)
    assert status.samples_per_second is None
    assert status.max_iterations == 100, "as the spec has it"
    unheard = live(make_job, *team, before=status, now=LATER)
    assert (unheard.iteration, unheard.accuracy) == (3, 0.5)


def test_figures_stand_until_the_learner_knows_others(make_job, team) -> None:
    status = live(make_job, *team, progress=WORKING)
    anew = live(make_job, *team, progress=Progress(phase="Starting"), before=status)
    assert (anew.iteration, anew.step, anew.accuracy) == (3, 12, 0.5)
    unknown = live(make_job, *team, progress=WORKING.model_copy(update={"accuracy": None, "iteration": 4}), before=anew)
    assert (unknown.iteration, unknown.accuracy) == (4, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_json_has_no_room_for_is_none(make_job, team, value: float) -> None:
    figures = dict.fromkeys(("accuracy", "accept_rate", "samples_per_second", "realised_variance_reduction"), value)
    status = live(make_job, *team, progress=WORKING.model_copy(update=figures))
    assert [getattr(status, name) for name in figures] == [None] * 4
    assert status_patch(status)["accuracy"] is None
    assert status.iteration == 3
    before = live(make_job, *team, progress=WORKING)
    after = live(make_job, *team, progress=WORKING.model_copy(update=figures), before=before)
    assert after.accuracy == 0.5, "the last that was one"


def test_the_checkpoints_are_where_the_storage_is(make_job) -> None:
    def place(**storage: Any) -> str:
        return live(make_job, storage=storage).checkpoints

    assert place() == "persistentvolumeclaim/a-run: a/checkpoints"
    assert place(existingClaim="shared") == "persistentvolumeclaim/shared: a/checkpoints"
    assert place(volume={"hostPath": {"path": "/data"}}) == "hostPath /data: a/checkpoints"
    assert place(volume={"nfs": {"server": "10.0.0.1", "path": "/gvm"}}) == "nfs /gvm: a/checkpoints"
    assert place(volume={"emptyDir": {}}) == "emptyDir: a/checkpoints"


def test_a_job_is_suspended_when_its_last_pod_is_gone(make_job, team) -> None:
    running = live(make_job, *team, progress=WORKING)
    accepted = Acceptance(job=validate_job(make_job()))
    stopping = job_status.suspended(Observed(job=make_job(), pods=team), running, accepted, NOW)
    assert (stopping.phase, stopping.message) == ("Running", "3 pods are stopping")
    assert condition(stopping, "Suspended")[:2] == ("False", "Suspending")
    gone = job_status.suspended(Observed(job=make_job()), stopping, accepted, LATER)
    assert (gone.phase, gone.rollout.summary) == ("Suspended", "0/0")
    assert condition(gone, "Suspended") == ("True", "Suspended", "all pods are gone")
    assert condition(gone, "LearnerRunning") == ("False", "Suspended", "")
    assert conditions.changed_at(gone.conditions, "Suspended") == LATER
    assert conditions.changed_at(gone.conditions, "LearnerRunning") == NOW
    resumed = live(make_job, before=gone, now=LATER)
    assert condition(resumed, "Suspended") == ("False", "Resumed", "the job was resumed")


def test_a_job_that_was_never_suspended_has_no_such_condition(make_job, team) -> None:
    assert conditions.find(live(make_job, *team).conditions, "Suspended") is None


def test_the_end_has_a_time_a_condition_and_the_last_figures(make_job, team) -> None:
    running = live(make_job, *team, progress=WORKING)
    last = Progress(phase="Succeeded", iteration=20, max_iterations=20, step=80, accuracy=0.9)
    complete = job_status.ended(Observed(job=make_job(), progress=last), running, "Complete", "", LATER)
    assert (complete.phase, complete.completion_time) == ("Succeeded", "2026-03-02T12:05:00Z")
    assert (complete.iteration, complete.step, complete.accuracy) == (20, 80, 0.9)
    assert condition(complete, "Complete") == ("True", "Complete", "")
    assert conditions.find(complete.conditions, "Failed") is None
    failed = job_status.ended(Observed(job=make_job()), running, "InvalidInput", "no such column", LATER)
    assert (failed.phase, failed.message, failed.iteration) == ("Failed", "no such column", 3)
    assert condition(failed, "Failed") == ("True", "InvalidInput", "no such column")
    for role in CONDITIONS.values():
        assert condition(failed, role)[:2] == ("False", "Finished")


def test_what_came_of_a_run_is_told_in_a_line(make_job) -> None:
    last = Progress(phase="Succeeded", iteration=20, accuracy=0.9)
    before = JobStatus(iteration=19, accuracy=0.25)
    assert job_status.result(Observed(job=make_job(), progress=last), before) == "20 iterations, accuracy 0.900"
    assert job_status.result(Observed(job=make_job()), before) == "19 iterations, accuracy 0.250"
    assert job_status.result(Observed(job=make_job()), JobStatus(iteration=7)) == "7 iterations"


def test_the_status_of_a_finished_job_counts_the_pods_that_are_left(make_job, make_pod) -> None:
    failed = make_pod(phase="Failed")
    status = job_status.counted(Observed(job=make_job(), pods=(failed,)), JobStatus(phase="Failed"), NOW)
    assert (status.phase, status.learner.failed, status.learner.summary) == ("Failed", 1, "0/0")


def test_servers_that_the_clean_up_policy_keeps_are_still_desired(make_job, team) -> None:
    labels = {"app.kubernetes.io/component": "rollout"}
    deployment = {"kind": "Deployment", "metadata": {"name": "a-rollout", "labels": labels}, "spec": {"replicas": 2}}
    observed = Observed(job=make_job(), children=(deployment,), pods=team)
    kept = job_status.counted(observed, JobStatus(phase="Succeeded"), NOW, keeps_servers=True)
    assert (kept.rollout.summary, kept.rollout.desired) == ("1/2", 2)
    freed = job_status.counted(observed, JobStatus(phase="Succeeded"), NOW)
    assert (freed.rollout.summary, freed.rollout.desired) == ("1/0", 0), "it is still stopping"


def test_a_refusal_is_one_transition_however_long_it_lasts_and_ends_with_another(make_job, team) -> None:
    refusal = Refusal(action=Delete(kind="Job", name="x"), message="Job x: forbidden")
    judged = live(make_job, *team)
    first = job_status.with_refusals(JobStatus(), judged, [refusal], NOW, 7)
    assert condition(first, "Accepted") == ("False", "Refused", "Job x: forbidden")
    assert first.message == "Job x: forbidden"
    again = live(make_job, *team, before=first, now=LATER)
    second = job_status.with_refusals(first, again, [refusal], LATER, 7)
    assert second == first
    allowed = job_status.with_refusals(second, live(make_job, *team, before=second, now=LATER), [], LATER, 7)
    assert condition(allowed, "Accepted")[:2] == ("True", "Accepted")
    assert conditions.changed_at(allowed.conditions, "Accepted") == LATER


def test_a_refusal_after_the_end_does_not_spoil_it() -> None:
    over, refusal = JobStatus(phase="Succeeded"), Refusal(action=Delete(kind="Job", name="x"), message="forbidden")
    assert job_status.with_refusals(over, over, [refusal], NOW, 7) is over


def test_gangs_that_are_equal_but_for_their_attempt_differ_in_their_restarts(make_job) -> None:
    first, second = RUN, replace(RUN, attempt=1)
    assert live(make_job, gang=second) == live(make_job, gang=first).model_copy(update={"restarts": 1})


def unjudged(fraction: float | None, iteration: int = 3) -> Progress:
    said = "my_rewards:score raised ValueError: no digits" if fraction else ""
    figures = {"iteration": iteration, "unjudged_fraction": fraction, "unjudged_message": said}
    return WORKING.model_copy(update=figures)


def test_a_reward_without_verdicts_is_a_condition_an_event_and_the_message(make_job, team) -> None:
    before = live(make_job, *team, progress=unjudged(0.0))
    assert conditions.find(before.conditions, "RewardJudging") is None, "nothing to say of what works"
    bad = live(make_job, *team, progress=unjudged(0.5), before=before)
    message = "no verdict on 50 % of the samples of iteration 3: my_rewards:score raised ValueError: no digits"
    assert condition(bad, "RewardJudging") == ("False", "NoVerdicts", message)
    assert bad.message == message
    assert bad.phase == "Running"
    assert list(events.transitions(before, bad)) == [events.Event(type="Warning", reason="NoVerdicts", message=message)]
    worse = live(make_job, *team, progress=unjudged(0.6, 4), before=bad)
    assert "60 % of the samples of iteration 4" in condition(worse, "RewardJudging")[2]
    assert list(events.transitions(bad, worse)) == [], "the same trouble is one event"
    well = live(make_job, *team, progress=unjudged(0.0, 5), before=worse)
    assert condition(well, "RewardJudging") == ("True", "Judging", "every sample has a verdict")
    assert well.message == "iteration 5 of 20"


def test_single_samples_without_a_verdict_are_told_and_no_trouble(make_job, team) -> None:
    few = live(make_job, *team, progress=unjudged(0.04))
    assert condition(few, "RewardJudging")[:2] == ("True", "Judging")
    assert condition(few, "RewardJudging")[2].startswith("no verdict on 4.0 % of the samples of iteration 3: my_rew")
    assert few.message == "iteration 3 of 20"
    away = live(make_job, *team, before=few)
    assert condition(away, "RewardJudging") == condition(few, "RewardJudging"), "as it stood, where nobody can be asked"
