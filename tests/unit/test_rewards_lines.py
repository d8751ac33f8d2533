"""JSON lines through the verifier, as the command line scores them."""

import json

import pytest

from gvm_api.spec import RewardSpec
from gvm_trainer.rewards import Verifier, score_lines


def test_lines_are_scored_in_order_and_blank_ones_skipped() -> None:
    lines = [json.dumps({"completion": f"#{i}", "answer": "3", "id": i}) + "\n" for i in range(5)] + ["\n"]
    with Verifier(RewardSpec(type="exact", pattern=r"#(\d+)", workers=1)) as verifier:
        scored = [json.loads(line) for line in score_lines(lines, verifier)]
    rejected = {"reward": 0.0, "outcome": "rejected"}
    assert scored == [rejected, rejected, rejected, {"reward": 1.0, "outcome": "accepted"}, rejected]


def test_more_lines_than_may_be_in_flight_are_all_scored() -> None:
    lines = (json.dumps({"completion": str(i % 2), "answer": "1"}) for i in range(2500))
    with Verifier(RewardSpec(type="exact")) as verifier:
        rewards = [json.loads(line)["reward"] for line in score_lines(lines, verifier)]
    assert rewards == [0.0, 1.0] * 1250


def test_a_line_without_a_verdict_says_why() -> None:
    line = json.dumps({"completion": "a" * 60, "answer": "b"})
    spec = RewardSpec(type="regex", pattern="^(a+)+{answer}$", timeout_seconds=0.5, workers=1)
    with Verifier(spec) as verifier:
        (scored,) = score_lines([line], verifier)
    assert json.loads(scored) == {
        "reward": None,
        "outcome": "timeout",
        "message": "reward regex gave no verdict within 0.5 s",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", r"line 2: '\[1\]' is no object"),
        ('{"completion": "5"}', 'line 2: key "answer" is missing; give it as a string'),
        ('{"completion": "5", "answer": 5}', 'line 2: key "answer" is 5; give it as a string'),
        ('{"answer": "5"}', 'line 2: key "completion" is missing'),
    ],
)
def test_a_bad_line_names_its_number_key_and_fix_after_the_lines_before_it(line: str, message: str) -> None:
    good = '{"completion": "5", "answer": "5"}'
    with Verifier(RewardSpec(type="exact", workers=1)) as verifier:
        scored = score_lines([good, line, good], verifier)
        assert json.loads(next(scored))["outcome"] == "accepted"
        with pytest.raises(ValueError, match=message):
            next(scored)
