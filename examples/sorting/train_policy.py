"""Trains the seed policy of the sorting example from nothing, on sortings drawn at random, and measures it.

Owns the response format (the list after each swap), how a derivation is drawn, the character tokeniser, the model's
shape and the supervised training. It knows nothing of reinforcement: it stops while long sortings still go wrong, on
purpose.
"""

import argparse
import json
import random
import time
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from generate import DIGITS, draw_list, swaps_needed
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from verifier import SEPARATOR, verify

SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
# A system message is dropped: the policy has never seen one, and its alphabet could not spell it.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}<|user|>{{ message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}<|assistant|>"
    "{%- generation -%}{{ message['content'] }}<|end|>{%- endgeneration -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
# Eight lists of nine digits, seven separators and the end: 80.
MAX_RESPONSE_TOKENS = 80
# How often the supervised data shows a list of so many digits that needs so many swaps.
CLASS_WEIGHTS = {(8, 3): 3.0, (8, 4): 3.0, (8, 5): 3.0, (8, 6): 1.5, (8, 7): 1.5}
BATCH_SIZE = 64
# Supervised steps, their learning rate, and the weight of (9, 6) in them: one quick phase that learns the format, two
# slow ones that clean up after it, and nine digits hardly ever.
PHASES = ((500, 2e-3, 0.4), (150, 5e-4, 0.4), (250, 5e-4, 1.5))
# Share of the swaps that bring a digit to its place; any other only brings the list nearer to order.
HOME_SHARE = 0.5

Row = dict[str, str]


def draw_derivation(rng: random.Random, digits: str) -> str:
    """A right response of the fewest swaps, each drawn at random.

    A swap of two digits of one cycle splits the cycle, so it brings the list one swap nearer to order.
    """
    lists = []
    while swaps := useful_swaps(digits):
        homing = [(i, j) for i, j in swaps if DIGITS[i] == digits[j] or DIGITS[j] == digits[i]]
        i, j = rng.choice(homing if rng.random() < HOME_SHARE else swaps)
        digits = swapped(digits, i, j)
        lists.append(digits)
    return SEPARATOR.join(lists)


def useful_swaps(digits: str) -> list[tuple[int, int]]:
    """The pairs of positions (i, j), i < j, whose exchange brings the list nearer to order."""
    cycle_of = list(range(len(digits)))
    for position, digit in enumerate(digits):
        merged, kept = cycle_of[DIGITS.index(digit)], cycle_of[position]
        cycle_of = [kept if cycle == merged else cycle for cycle in cycle_of]
    return [(i, j) for j in range(len(digits)) for i in range(j) if cycle_of[i] == cycle_of[j]]


def swapped(digits: str, i: int, j: int) -> str:
    """The list with the entries at two positions exchanged, i < j."""
    return digits[:i] + digits[j] + digits[i + 1 : j] + digits[i] + digits[j + 1 :]


def build_tokenizer() -> Qwen2Tokenizer:
    """One token a character (no merges), none added by itself: special tokens come from the chat template.

    Of Qwen2's own class because transformers loads that one for every Qwen2 folder, whatever the folder says.
    Characters outside the alphabet are dropped.
    """
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate((*SPECIAL_TOKENS, *DIGITS, SEPARATOR))},
        merges=[],
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|pad|>",
        extra_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=128,
        padding_side="left",
    )


def build_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 of 0.8M parameters, freshly initialised from torch's global seed."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        use_cache=True,
    )
    model = Qwen2ForCausalLM(config)  # type: ignore[no-untyped-call]  # transformers is partly untyped
    # Plain sampling: servers take their defaults from here, and training needs the policy's own distribution.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # as above
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def draw_prompt(rng: random.Random, held_out: Set[str], class_weights: Mapping[tuple[int, int], float]) -> str:
    """A list that is in no prompt file, of a class (digits, swaps) drawn by its weight."""
    ((num_digits, num_swaps),) = rng.choices(list(class_weights), list(class_weights.values()))
    while True:
        digits = draw_list(rng, num_digits, num_swaps)
        if digits not in held_out:
            return digits


def supervised_batch(tokenizer: Qwen2Tokenizer, pairs: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Conversations (prompt, response) through the chat template, right-padded to (B, T).

    Labels are -100 outside the responses.
    """
    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}] for prompt, response in pairs
    ]
    encoded: Any = tokenizer.apply_chat_template(
        conversations, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    width = max(map(len, encoded["input_ids"]))
    ids = torch.full((len(pairs), width), int(tokenizer.pad_token_id or 0))
    labels = torch.full_like(ids, -100)
    for row, (tokens, mask) in enumerate(zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.where(torch.tensor(mask, dtype=torch.bool), torch.tensor(tokens), -100)
    # Right padding stands behind everything that is learnt from, so causal attention needs no mask.
    return {"input_ids": ids, "labels": labels}


def train(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    held_out: Set[str],
    rng: random.Random,
    *,
    class_weights: Mapping[tuple[int, int], float],
    steps: int,
    learning_rate: float,
) -> None:
    """Supervised steps of a fresh AdamW, with a warm-up of 50 steps and no decay.

    A policy annealed to a rate of zero lies in a sharp minimum and falls apart at the first steps of another optimiser.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1.0))
    start = time.monotonic()
    for step in range(1, steps + 1):
        prompts = [draw_prompt(rng, held_out, class_weights) for _ in range(BATCH_SIZE)]
        batch = supervised_batch(tokenizer, [(prompt, draw_derivation(rng, prompt)) for prompt in prompts])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(
                f"rate {learning_rate}  step {step}/{steps}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s",
                flush=True,
            )


@torch.inference_mode()
def accepted_responses(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, prompts: list[str], num_samples: int
) -> list[list[str]]:
    """Of `num_samples` responses to each prompt at temperature 1, those that are right."""
    rendered = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        for prompt in prompts
    ]
    encoded = tokenizer(rendered, return_tensors="pt", padding=True)
    accepted: list[list[str]] = [[] for _ in prompts]
    for _ in range(num_samples):
        output = model.generate(  # type: ignore[misc]  # its self type names a protocol
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=MAX_RESPONSE_TOKENS,
        )
        responses = tokenizer.batch_decode(output[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        for prompt, response, right in zip(prompts, responses, accepted, strict=True):
            if verify(response, prompt):
                right.append(response)
    return accepted


def print_table(prompts: list[str], accepted: list[list[str]], num_samples: int) -> None:
    """Print, by class, how often the policy is right and how much its right responses vary."""
    print("digits  swaps  prompts  accuracy  p > .8  p < .05  distinct of accepted")
    classes = [(len(prompt), swaps_needed(prompt)) for prompt in prompts]
    for label, chosen in [
        *((f"{n:6d}  {d:5d}", {(n, d)}) for n, d in sorted(set(classes))),
        ("   all       ", classes),
    ]:
        group = [right for right, class_ in zip(accepted, classes, strict=True) if class_ in chosen]
        rates = [len(right) / num_samples for right in group]
        solved, hopeless = sum(rate > 0.8 for rate in rates), sum(rate < 0.05 for rate in rates)
        distinct, total = sum(len(set(right)) for right in group), sum(map(len, group))
        print(
            f"{label}  {len(group):7d}  {sum(rates) / len(group):8.3f}  {solved / len(group):6.2f}"
            f"  {hopeless / len(group):7.2f}  {distinct / max(total, 1):.2f}"
        )


def read_rows(path: Path) -> list[Row]:
    """The rows of a prompt file; ValueError when it is missing."""
    if not path.is_file():
        raise ValueError(f"data-dir: {path} does not exist; run generate.py first")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description="Train a Qwen2 of 0.8M parameters from nothing to sort digits by swaps, writing the list "
        'after each ("13245687" -> "12345687>12345678"), and save it as a Hugging Face folder. It stops early: '
        "lists far from order mostly go wrong. No network, no GPU.",
        epilog="Needs train.jsonl, tune.jsonl and eval.jsonl (generate.py): they are left out of the training.",
    )
    parser.add_argument("--data-dir", type=Path, default=here, help="folder of the prompt files (default: here)")
    parser.add_argument(
        "--output-dir", type=Path, default=here / "policy", help="folder for the policy (default: policy/ here)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data and samples (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=16, help="responses to a prompt (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Train, save and print the table of the held-out prompts."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    prompts = {
        split: [row["prompt"] for row in read_rows(arguments.data_dir / f"{split}.jsonl")]
        for split in ("train", "tune", "eval")
    }
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    held_out = {digits for split in prompts.values() for digits in split}
    rng = random.Random(arguments.seed)
    for steps, learning_rate, nine_digits in PHASES:
        class_weights = {**CLASS_WEIGHTS, (9, 6): nine_digits}
        train(model, tokenizer, held_out, rng, class_weights=class_weights, steps=steps, learning_rate=learning_rate)
    model.train(False)
    model.save_pretrained(arguments.output_dir)
    tokenizer.save_pretrained(arguments.output_dir)
    accepted = accepted_responses(model, tokenizer, prompts["eval"], arguments.samples)
    print_table(prompts["eval"], accepted, arguments.samples)


if __name__ == "__main__":
    main()
