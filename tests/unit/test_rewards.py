"""The exact, regex and python rewards, and what a specification that cannot be used says."""

from pathlib import Path

import pytest

from gvm_api.spec import RewardSpec
from gvm_trainer.rewards.exact import ExactReward
from gvm_trainer.rewards.python import PythonReward
from gvm_trainer.rewards.regex import RegexReward
from gvm_trainer.rewards.registry import build_reward


def test_exact_compares_the_whole_stripped_completion() -> None:
    assert ExactReward()(" 522\n", "522 ") == 1.0
    assert ExactReward()("#522", "522") == 0.0


def test_exact_extracts_the_last_match_of_its_group() -> None:
    reward = ExactReward(r"#(\d+)")
    assert reward("7+5+0=12;12+510=522;#522", "522") == 1.0
    assert reward("#522 no #523", "522") == 0.0
    assert reward("#523 no #522", "522") == 1.0
    assert reward("522", "522") == 0.0


def test_exact_with_an_anchored_pattern_wants_the_answer_at_the_end() -> None:
    reward = ExactReward(r"#(\d+)$")
    assert reward("7+5+0=12;#522", "522") == 1.0
    assert reward("#522;", "522") == 0.0
    assert reward("#5220", "522") == 0.0


def test_exact_takes_a_group_that_did_not_take_part_for_no_answer() -> None:
    assert ExactReward(r"#(\d+)?")("#", "") == 0.0


def test_regex_puts_the_answer_in_literally() -> None:
    reward = RegexReward(r"= {answer}$")
    assert reward("so 1+1.5 = 2.5", "2.5") == 1.0
    assert reward("so 1+1.5 = 2x5", "2.5") == 0.0
    assert reward("= 2.5 or so", "2.5") == 0.0


def test_regex_without_the_placeholder_is_a_format_reward() -> None:
    assert RegexReward(r"</think>\s*\d+$")("<think>a</think> 4", "ignored") == 1.0


def test_python_calls_the_function_with_completion_and_answer() -> None:
    assert PythonReward("operator:contains")("the answer is 42", "42") is True


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (RewardSpec.model_construct(type="exact", pattern="#(\\d+"), ["reward.pattern", r"'#(\\d+'", "correct it"]),
        (RewardSpec.model_construct(type="exact", pattern="#\\d+"), ["reward.pattern", "0 groups", "needs one"]),
        (RewardSpec.model_construct(type="exact", pattern="(#)(\\d+)"), ["reward.pattern", "2 groups", "(?:...)"]),
        (
            RewardSpec.model_construct(type="regex", pattern="[{answer}"),
            ["reward.pattern", "'[{answer}'", "correct it"],
        ),
        (
            RewardSpec.model_construct(type="python", function="json.loads"),
            ["reward.function", "'json.loads'", "module:func"],
        ),
        (
            RewardSpec.model_construct(type="python", function="no.such:f"),
            ["reward.function", "'no.such'", "PYTHONPATH"],
        ),
        (RewardSpec.model_construct(type="python", function="json:nope"), ["reward.function", "'nope'", "module:func"]),
        (RewardSpec.model_construct(type="python", function="math:pi"), ["reward.function", "'pi'", "module:func"]),
    ],
)
def test_a_reward_that_cannot_be_used_names_field_value_and_fix(spec: RewardSpec, parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        build_reward(spec)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_module_that_fails_while_it_is_imported_is_a_bad_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reward_that_raises.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"reward\.function.*reward_that_raises.*ZeroDivisionError"):
        PythonReward("reward_that_raises:f")
