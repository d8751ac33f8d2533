"""Draws the prompts of the sorting example and writes them as JSON lines.

Owns the task: the digits 1 to 8 or 1 to 9 out of order, and how many swaps at least bring them into order. It knows
neither models nor tokenisers, nor which swaps a response makes.
"""

import argparse
import json
import random
from collections.abc import Mapping
from pathlib import Path

DIGITS = "123456789"
# How many prompts of so many digits that need so many swaps at least: the difficulty of a split.
TRAIN_PER_CLASS = {(8, 3): 1000, (8, 4): 2600, (8, 5): 2400, (8, 6): 1000, (8, 7): 550, (9, 6): 642}
EVAL_PER_CLASS = {(8, 3): 31, (8, 4): 81, (8, 5): 75, (8, 6): 32, (8, 7): 17, (9, 6): 20}
# In this order, so that a new train mix leaves the held-out prompts as they are.
SPLITS = {"eval": EVAL_PER_CLASS, "tune": EVAL_PER_CLASS, "train": TRAIN_PER_CLASS}

Row = dict[str, str]


def swaps_needed(digits: str) -> int:
    """The fewest swaps that sort `digits`: its length less its number of cycles.

    Example:
        swaps_needed("21345678") == 1
    """
    home = {digit: position for position, digit in enumerate(sorted(digits))}
    left, num_cycles = set(digits), 0
    while left:
        num_cycles += 1
        digit = min(left)
        while digit in left:
            left.remove(digit)
            digit = digits[home[digit]]
    return len(digits) - num_cycles


def draw_list(rng: random.Random, num_digits: int, num_swaps: int) -> str:
    """The digits from 1 to `num_digits` in an order that needs `num_swaps` swaps, uniform among these."""
    while True:
        digits = "".join(rng.sample(DIGITS[:num_digits], num_digits))
        if swaps_needed(digits) == num_swaps:
            return digits


def draw_rows(rng: random.Random, split: str, per_class: Mapping[tuple[int, int], int], taken: set[str]) -> list[Row]:
    """Rows {"id", "prompt", "answer"} of one split, shuffled; every prompt is new to `taken`, which grows.

    "answer" repeats the prompt, because a reward sees a completion and an answer: where a right response ends is known,
    and what has to be checked is the way from the prompt to there.
    """
    prompts: list[str] = []
    for (num_digits, num_swaps), count in per_class.items():
        target = len(prompts) + count
        while len(prompts) < target:
            digits = draw_list(rng, num_digits, num_swaps)
            if digits not in taken:
                taken.add(digits)
                prompts.append(digits)
    rng.shuffle(prompts)
    return [{"id": f"{split}-{index:04d}", "prompt": digits, "answer": digits} for index, digits in enumerate(prompts)]


def draw_splits(seed: int) -> dict[str, list[Row]]:
    """The rows of each split for a seed. No prompt is in two of them."""
    rng = random.Random(seed)
    taken: set[str] = set()
    return {split: draw_rows(rng, split, per_class, taken) for split, per_class in SPLITS.items()}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write train.jsonl, tune.jsonl and eval.jsonl: the digits 1 to 8 or 1 to 9 out of order, one JSON "
        'object a line with the keys "id", "prompt" (such as "31245678") and "answer" (the same). No prompt is in two '
        "files. The same seed writes the same files, byte for byte.",
        epilog="Next: python train_policy.py trains the seed policy; it keeps away from the prompts written here.",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: %(default)s)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(__file__).parent,
        help="folder for the three files, made if missing (default: the folder of this script)",
    )
    return parser.parse_args()


def main() -> None:
    """Write the files and say what they hold."""
    arguments = parse_arguments()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for split, rows in draw_splits(arguments.seed).items():
        path = arguments.output_dir / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)} prompts")


if __name__ == "__main__":
    main()
