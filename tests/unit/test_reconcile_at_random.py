"""Lives of a job in which anything happens at any time, in any order.

happens     the learner fails, succeeds, is given bad input · servers are evicted, images cannot be pulled · children,
            Jobs and pods are deleted by hand · suspend, resume, scaling, changes that are refused · time passes
operator    looks at once or late, at what is or at what was, is replaced by a new one in the middle · two take turns
always      one gang at a time · nothing is made after the end, which stays the end · no more restarts than
            backoffLimit · the status is one that JSON and the API server take
in the end  all settles: nothing more to do or to say, and nothing runs that should not
"""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gvm_api.wire import Progress

TERMINAL = ("Succeeded", "Failed")
BY_HAND = ("ConfigMap", "Deployment", "Job", "NetworkPolicy", "PersistentVolumeClaim", "Pod", "Secret", "Service")
PROGRESS = (
    None,
    Progress(phase="Starting"),
    Progress(phase="Running", iteration=3, max_iterations=20, accuracy=float("nan")),
    Progress(phase="Failed"),
)


class Life(RuleBasedStateMachine):
    """One job's life under one or two operators."""

    def __init__(self, make_cluster: Any, make_operator: Any, make_job: Any, make_pod: Any, num_operators: int) -> None:
        super().__init__()
        self.cluster = make_cluster()
        self.make_operator, self.make_job, self.make_pod = make_operator, make_job, make_pod
        self.operators = [make_operator(self.cluster) for _ in range(num_operators)]
        self.ended = ""
        self.log_at_end = 0

    @initialize(
        limit=st.integers(0, 2),
        cleanup=st.sampled_from(["Running", "All", "None"]),
        deadline=st.sampled_from([None, 9000]),
        replicas=st.integers(1, 2),
        num_rounds=st.sampled_from([0, 4]),
    )
    def begin(self, limit: int, cleanup: str, deadline: int | None, replicas: int, num_rounds: int) -> None:
        policy = {"backoffLimit": limit, "cleanupPolicy": cleanup, "startupDeadlineSeconds": 1200}
        if deadline is not None:
            policy["activeDeadlineSeconds"] = deadline
        self.limit, self.cleanup = limit, cleanup
        self.cluster.apply(self.make_job(runPolicy=policy, learner={"replicas": replicas}))
        for operator in self.operators:
            operator.refresh()
        self.live_on(num_rounds, 0)

    # The operators.

    @rule(which=st.integers(0, 1))
    def look_at_what_was(self, which: int) -> None:
        self.operators[which % len(self.operators)].look()

    @rule(which=st.integers(0, 1))
    def look_at_what_is(self, which: int) -> None:
        self.operators[which % len(self.operators)].refresh().look()

    @rule(num_rounds=st.integers(1, 4), seconds=st.sampled_from([0, 15]))
    def live_on(self, num_rounds: int, seconds: int) -> None:
        for _ in range(num_rounds):
            self.look_at_what_is(0)
            self.cluster.step()
            self.cluster.wait(seconds)

    @rule(which=st.integers(0, 1))
    def replace_the_operator(self, which: int) -> None:
        self.operators[which % len(self.operators)] = self.make_operator(self.cluster).refresh()

    # The cluster.

    @rule()
    def step(self) -> None:
        self.cluster.step()

    @rule(seconds=st.sampled_from([1, 9, 30, 300]))
    def wait(self, seconds: int) -> None:
        self.cluster.wait(seconds)

    @rule(progress=st.sampled_from(PROGRESS))
    def report_progress(self, progress: Progress | None) -> None:
        for operator in self.operators:
            operator.progress = progress

    @rule(seconds=st.sampled_from([0, 60]), num_steps=st.integers(0, 2))
    def fail(self, seconds: int, num_steps: int) -> None:
        self.cluster.end("learner", 1, message="out of memory")
        self.cluster.step(num_steps)
        self.cluster.wait(seconds)

    @rule(is_good=st.sampled_from([True, True, True, False]))
    def end(self, is_good: bool) -> None:
        self.cluster.end("learner", 0 if is_good else 1, message="" if is_good else "InvalidInput: no such column")

    @rule(num_steps=st.integers(0, 2))
    def lose_one_of_the_gang(self, num_steps: int) -> None:
        for pod in self.cluster.active_pods("learner")[:1]:
            self.cluster.set_status(pod, {"phase": "Failed", "reason": "Evicted"})
        self.cluster.step(num_steps)

    @rule()
    def evict_servers(self) -> None:
        for pod in self.cluster.active_pods("rollout"):
            self.cluster.set_status(pod, {"phase": "Failed", "reason": "Evicted", "message": "low on memory"})

    @rule(role=st.sampled_from([None, None, "rollout", "allocator", "learner"]))
    def change_luck(self, role: str | None) -> None:
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        stuck = self.make_pod(role, phase="Pending", waiting=waiting)["status"]
        self.cluster.stuck = {role: stuck} if role else {}

    # The user.

    @rule(suspend=st.booleans())
    def suspend_or_resume(self, suspend: bool) -> None:
        self.cluster.edit("runPolicy", suspend=suspend)

    @rule(replicas=st.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.cluster.edit("rollout", replicas=replicas)  # 0 is refused

    @rule(iterations=st.sampled_from([None, 7]))
    def change_what_is_fixed(self, iterations: int | None) -> None:
        self.cluster.edit("algorithm", maxIterations=iterations)

    @rule(kind=st.sampled_from(BY_HAND))
    def delete_by_hand(self, kind: str) -> None:
        # Two operators, one of which knows nothing of it, may both replace a Job: only one operator is ever deployed.
        if kind == "Job" and len(self.operators) > 1:
            return
        for name in self.cluster.names(kind)[:1]:
            self.cluster.delete(kind, "default", name)

    # What must hold.

    @invariant()
    def one_gang_runs_at_a_time(self) -> None:
        owners = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in self.cluster.active_pods("learner")}
        assert len(owners) <= 1 or len(self.operators) > 1

    @invariant()
    def no_more_gangs_than_allowed(self) -> None:
        if self.cluster.names("GVMTrainingJob"):
            assert self.cluster.status().get("restarts", 0) <= self.limit
        allowed = {f"a-learner-{attempt}" for attempt in range(self.limit + 1)}
        assert {line.split()[-1] for line in self.cluster.log if line.startswith("create Job")} <= allowed

    @invariant()
    def the_end_is_the_end(self) -> None:
        if not self.cluster.names("GVMTrainingJob"):
            return
        phase = self.cluster.status().get("phase", "")
        if self.ended:
            assert phase == self.ended
            made = [line for line in self.cluster.log[self.log_at_end :] if line.startswith("create")]
            assert not made or len(self.operators) > 1
        elif phase in TERMINAL:
            self.ended, self.log_at_end = phase, len(self.cluster.log)

    @invariant()
    def conditions_do_not_contradict_the_phase(self) -> None:
        if not self.cluster.names("GVMTrainingJob"):
            return
        status = self.cluster.status()
        conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
        assert len(conditions) == len(status.get("conditions", ()))
        assert ("Complete" in conditions) == (status.get("phase") == "Succeeded")
        assert ("Failed" in conditions) == (status.get("phase") == "Failed")
        if self.cluster.condition("Accepted").get("reason") == "InvalidSpec":
            return  # of a job whose record is gone as well, nothing more can be said than that
        assert (conditions.get("LearnerRunning") == "True") <= (status.get("phase") == "Running")
        assert (conditions.get("Suspended") == "True") <= (status.get("phase") in ("Suspended", *TERMINAL))

    def teardown(self) -> None:
        """When nothing happens any more but what should, the job comes to its end and all is quiet."""
        if not self.cluster.names("GVMTrainingJob"):
            return
        self.cluster.stuck = {}
        self.cluster.edit("runPolicy", suspend=False)
        self.cluster.edit("rollout", replicas=1)
        self.cluster.edit("algorithm", maxIterations=None)
        for operator in self.operators:
            operator.progress = Progress(phase="Running")
        for turn in range(60):
            self.look_at_what_is(turn)
            self.cluster.step()
            self.cluster.wait(5)
            if self.cluster.status()["phase"] == "Running":
                self.cluster.end("learner", 0)
        assert self.cluster.status()["phase"] in TERMINAL
        for operator in self.operators:
            written = self.cluster.status()
            decision = operator.refresh().look()
            assert (decision.actions, decision.look_again_at) == ((), None)
            assert self.cluster.status() == written
        if self.cleanup != "None":
            assert self.cluster.active_pods() == []


def live(make_life: Callable[[], Life], num_lives: int) -> None:
    run_state_machine_as_test(make_life, settings=settings(max_examples=num_lives, stateful_step_count=30))


def test_whatever_happens_a_job_runs_one_gang_at_a_time_and_comes_to_its_end(
    make_cluster, make_operator, make_job, make_pod
) -> None:
    live(lambda: Life(make_cluster, make_operator, make_job, make_pod, num_operators=1), 25)


def test_whatever_happens_two_operators_come_to_the_same_end(make_cluster, make_operator, make_job, make_pod) -> None:
    live(lambda: Life(make_cluster, make_operator, make_job, make_pod, num_operators=2), 15)
