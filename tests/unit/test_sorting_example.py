"""The sorting example: its prompt files, its verifier, its tokeniser and the seed policy that ships with it."""

import itertools
import json
import pickle
import random
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gvm_api.load import load_job
from gvm_trainer.rewards.registry import build_reward

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sorting"
POLICY = EXAMPLE / "policy"
SPLITS = ("train", "tune", "eval")
RIGHT = "16345278>12345678"  # of 61345278


@pytest.fixture(scope="module")
def generate() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE / "generate.py"))


@pytest.fixture(scope="module")
def train_policy() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))  # as when it runs as a script
        yield runpy.run_path(str(EXAMPLE / "train_policy.py"))


@pytest.fixture(scope="module")
def verify() -> Any:
    return runpy.run_path(str(EXAMPLE / "verifier.py"))["verify"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(POLICY)


def read(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (EXAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_committed_files_are_what_the_default_seed_writes(
    generate: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["generate.py", "--output-dir", str(tmp_path)])
    generate["main"]()
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (EXAMPLE / f"{split}.jsonl").read_bytes()


def test_another_seed_draws_other_prompts(generate: dict[str, Any]) -> None:
    assert generate["draw_splits"](1)["eval"] != read("eval")


def test_no_prompt_and_no_id_appears_twice_and_the_answer_repeats_the_prompt() -> None:
    rows = [row for split in SPLITS for row in read(split)]
    assert [len(read(split)) for split in SPLITS] == [8192, 256, 256]
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 8704
    assert all(row == {"id": row["id"], "prompt": row["prompt"], "answer": row["prompt"]} for row in rows)


def test_a_split_holds_as_many_prompts_of_a_class_as_it_says(generate: dict[str, Any]) -> None:
    for split, per_class in generate["SPLITS"].items():
        prompts = [row["prompt"] for row in read(split)]
        assert Counter((len(digits), generate["swaps_needed"](digits)) for digits in prompts) == per_class


def test_swaps_needed_is_the_shortest_way_by_search(generate: dict[str, Any]) -> None:
    distance, frontier = {"12345": 0}, ["12345"]
    for digits in frontier:  # grows while it is read: breadth first
        for i, j in itertools.combinations(range(5), 2):
            swapped = list(digits)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            if "".join(swapped) not in distance:
                distance["".join(swapped)] = distance[digits] + 1
                frontier.append("".join(swapped))
    assert len(distance) == 120
    assert {digits: generate["swaps_needed"](digits) for digits in distance} == distance


def test_useful_swaps_are_those_that_bring_the_list_nearer_to_order(train_policy: dict[str, Any]) -> None:
    needed, swapped = train_policy["swaps_needed"], train_policy["swapped"]
    for permutation in itertools.permutations("12345"):
        digits = "".join(permutation)
        nearer = {
            (i, j)
            for i, j in itertools.combinations(range(5), 2)
            if needed(swapped(digits, i, j)) == needed(digits) - 1
        }
        assert set(train_policy["useful_swaps"](digits)) == nearer


def test_drawn_derivations_are_right_shortest_and_differ(train_policy: dict[str, Any], verify: Any) -> None:
    rng = random.Random(0)
    drawn = [train_policy["draw_derivation"](rng, "23456718") for _ in range(100)]  # one cycle of seven digits
    assert all(verify(response, "23456718") for response in drawn)
    assert {response.count(">") + 1 for response in drawn} == {6}
    assert len(set(drawn)) > 90


def test_supervised_lists_keep_away_from_held_out_ones(train_policy: dict[str, Any]) -> None:
    rng = random.Random(0)
    held_out = {train_policy["draw_list"](rng, 8, 3) for _ in range(5000)}
    assert 1700 < len(held_out) < 1960  # of the 1960 lists of this class
    drawn = {train_policy["draw_prompt"](rng, held_out, train_policy["CLASS_WEIGHTS"]) for _ in range(200)}
    assert not drawn & held_out
    assert any(train_policy["swaps_needed"](digits) == 3 for digits in drawn)


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ("", "nothing"),
        ("12345678", "two swaps at once"),
        ("16345278>16345278>12345678", "a step without a swap"),
        ("16345278", "not in order"),
        ("16345278>12345678>", "goes on after the end"),
        (">16345278>12345678", "an empty list"),
        ("61345278>16345278>12345678", "begins with the prompt"),
        ("16345278>12345678\n", "a line's end"),
        ("16345278 12345678", "no separator"),
        ("1634527>12345678", "a digit short"),
        ("16345228>12345678", "a digit twice"),
        ("16345278>123456789", "a digit more"),
    ],
)
def test_a_wrong_response_is_rejected(verify: Any, completion: str, why: str) -> None:
    assert verify(RIGHT, "61345278") is True
    assert verify(completion, "61345278") is False, why


def test_as_many_swaps_as_digits_are_too_many(verify: Any) -> None:
    there_and_back = ["213", "123"]
    assert verify(">".join(there_and_back[1:]), "213") is True
    assert verify("123>213>123", "213") is False
    assert verify("132>312>321>123", "123") is False
    assert verify("32145678>12345678>21345678>12345678>13245678>12345678>12435678>12345678", "23145678") is False


def test_every_single_character_s_edit_of_a_right_response_makes_it_wrong(verify: Any) -> None:
    for position in range(len(RIGHT)):
        for character in ("", *"0123456789>#x \n"):
            edited = RIGHT[:position] + character + RIGHT[position + 1 :]
            assert verify(edited, "61345278") is (edited == RIGHT), edited


def test_garbage_is_wrong_and_never_an_error(verify: Any) -> None:
    rng = random.Random(0)
    alphabet = "123456789>>>0 -#\n\0\ud800é漢٣"
    for _ in range(5000):
        garbage = "".join(rng.choices(alphabet, k=rng.randrange(100)))
        for answer in ("61345278", "1", "", garbage[:9]):
            assert verify(garbage, answer) in (True, False)
        assert verify(garbage, "61345278") is False
    assert verify("1" * 1_000_000, "61345278") is False
    assert verify(">" * 1_000_000, "61345278") is False


def test_random_swaps_sort_less_than_one_list_in_500(train_policy: dict[str, Any]) -> None:
    rng, num_sorted = random.Random(0), 0
    nearest = [row["prompt"] for row in read("train") if train_policy["swaps_needed"](row["prompt"]) == 3]
    for digits in nearest * 10:
        for _ in range(7):
            digits = train_policy["swapped"](digits, *sorted(rng.sample(range(8), 2)))
            if digits == "12345678":
                num_sorted += 1
                break
    assert num_sorted < 20


def test_the_job_s_reward_is_found_from_the_repository_s_root_and_travels_to_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))  # `python -m` puts the working directory there
    reward = pickle.loads(pickle.dumps(build_reward(load_job(ROOT / "examples" / "sorting.yaml").spec.reward)))
    assert reward(RIGHT, "61345278") is True
    assert reward(RIGHT, "16345278") is False


def test_every_response_fits_the_sampling_limit(train_policy: dict[str, Any]) -> None:
    digits = max((row["prompt"] for split in SPLITS for row in read(split)), key=len)
    # At most one swap fewer than digits: as many separators, less one, and a token for the end.
    longest = (len(digits) - 1) * (len(digits) + 1)
    assert longest == train_policy["MAX_RESPONSE_TOKENS"]
    assert load_job(ROOT / "examples" / "sorting.yaml").spec.rollout.max_response_tokens == longest


def test_a_generation_prompt_is_the_beginning_of_the_supervised_conversation(
    tokenizer: Any, train_policy: dict[str, Any]
) -> None:
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "61345278"}], add_generation_prompt=True)
    assert tokenizer.convert_ids_to_tokens(prompt["input_ids"]) == ["<|user|>", *"61345278", "<|assistant|>"]
    batch = train_policy["supervised_batch"](tokenizer, [("61345278", RIGHT)])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    start = len(prompt["input_ids"])
    assert ids[:start] == prompt["input_ids"]
    assert labels == [-100] * start + ids[start:]
    assert tokenizer.decode(ids[start:]) == f"{RIGHT}<|end|>"


def test_a_system_message_leaves_the_prompt_as_it_was(tokenizer: Any) -> None:
    user = {"role": "user", "content": "61345278"}
    system = {"role": "system", "content": "Sort the 8 digits."}
    bare, instructed = (
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        for chat in ([user], [system, user])
    )
    assert instructed == bare


def test_the_policy_folder_is_under_4_mb() -> None:
    assert sum(path.stat().st_size for path in POLICY.iterdir()) < 4_000_000


def test_the_policy_loads_solves_near_lists_in_many_ways_and_far_ones_seldom(
    tokenizer: Any, train_policy: dict[str, Any]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(POLICY)
    assert model.dtype == torch.float32
    torch.manual_seed(0)
    prompts = [row["prompt"] for row in read("eval")]
    near = [digits for digits in prompts if len(digits) == 8 and train_policy["swaps_needed"](digits) == 4][:16]
    far = [digits for digits in prompts if len(digits) == 9][:16]
    accepted = train_policy["accepted_responses"](model, tokenizer, near, num_samples=4)
    assert sum(map(len, accepted)) / 64 > 0.7
    assert sum(len(set(right)) for right in accepted) / sum(map(len, accepted)) > 0.8
    assert sum(map(len, train_policy["accepted_responses"](model, tokenizer, far, num_samples=4))) / 64 < 0.3
