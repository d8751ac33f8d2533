"""requirements/torch.sh takes the CPU wheel where there is one, and else PyPI's build with its CUDA libraries.

Real pip, wheels of our own, folders in place of indexes. Cases: the CPU wheel at pip's own index, at PyTorch's with the
pinned hash, with another one, nowhere; then the pins themselves.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with nothing in it but its name."""
    folder.mkdir(parents=True, exist_ok=True)
    file, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{info}/{part},,\n" for part in [*texts, "RECORD"])
    with zipfile.ZipFile(file, "w") as archive:
        for part, text in {**texts, "RECORD": record}.items():
            archive.writestr(f"{info}/{part}", text)
    return file


def index_of(folder: Path, name: str) -> str:
    """The address of an index that has one wheel of torch."""
    file = wheel(folder / "files", name, "9.1.0+cpu")
    page = folder / "simple" / name
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<a href="{file.as_uri().replace("+", "%2B")}">{file.name}</a>')
    return (folder / "simple").as_uri()


@pytest.fixture
def pypi(tmp_path: Path) -> Path:
    """What pip is configured with: PyPI's build of torch and its CUDA library. Pins of these lie beside the script."""
    shutil.copy(REQUIREMENTS / "torch.sh", tmp_path)
    wheel(tmp_path / "pypi", "torch", "9.1.0")
    wheel(tmp_path / "pypi", "nvidia_some", "1.0")
    (tmp_path / "torch-cuda.txt").write_text("torch===9.1.0\nnvidia-some==1.0\n")
    pin_hash(tmp_path, wheel(tmp_path / "published", "torch", "9.1.0+cpu"))
    return tmp_path / "pypi"


def pin_hash(folder: Path, file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "torch-cpu.txt").write_text(f"# A comment.\ntorch==9.1.0+cpu --hash=sha256:{digest}\n")


def install(pypi: Path, index: str) -> tuple[list[str], str]:
    """What the script installs, and what it says. PyPI itself is out of reach, as an index that has nothing."""
    nothing = pypi.parent / "nothing"
    nothing.mkdir()
    settings = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": nothing.as_uri(),
        "PIP_FIND_LINKS": str(pypi),
        "PIP_TARGET": str(pypi.parent / "installed"),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        ["sh", str(pypi.parent / "torch.sh"), sys.executable, index],
        env=clean | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = sorted(path.name.removesuffix(".dist-info") for path in (pypi.parent / "installed").glob("*.dist-info"))
    return found, done.stderr


def test_the_cpu_wheel_of_an_index_that_pip_knows_is_taken(pypi: Path) -> None:
    wheel(pypi, "torch", "9.1.0+cpu")
    assert install(pypi, "") == (["torch-9.1.0+cpu"], "")


def test_else_the_cpu_wheel_of_the_named_index_if_its_hash_is_pinned(pypi: Path) -> None:
    index = index_of(pypi.parent / "pytorch", "torch")
    pin_hash(pypi.parent, pypi.parent / "pytorch/files/torch-9.1.0+cpu-py3-none-any.whl")
    assert install(pypi, index) == (["torch-9.1.0+cpu"], "")


CUDA_BUILD = ["nvidia_some-1.0", "torch-9.1.0"]


def test_a_cpu_wheel_of_the_named_index_with_another_hash_is_not_taken(pypi: Path) -> None:
    index = index_of(pypi.parent / "pytorch", "torch")
    (pypi.parent / "torch-cpu.txt").write_text(f"torch==9.1.0+cpu --hash=sha256:{'0' * 64}\n")
    assert install(pypi, index)[0] == CUDA_BUILD


@pytest.mark.parametrize("index", ["", "http://127.0.0.1:9/simple"], ids=["none named", "out of reach"])
def test_else_the_cuda_build_with_its_libraries_and_a_line_that_says_what_it_costs(pypi: Path, index: str) -> None:
    installed, said = install(pypi, index)
    assert installed == CUDA_BUILD
    (line,) = [line for line in said.splitlines() if line.startswith("torch: ")]  # beside pip's own
    assert "2.4 GB to download" in line


def test_the_three_pins_of_torch_are_of_one_version() -> None:
    pinned = {
        name: [line.split()[0] for line in (REQUIREMENTS / name).read_text().splitlines() if line.startswith("torch=")]
        for name in ("cpu.txt", "torch-cpu.txt", "torch-cuda.txt")
    }
    ((version,),) = {tuple(line.split("==")[1:]) for line in pinned["cpu.txt"]}
    assert pinned["torch-cpu.txt"] == [f"torch=={version}+cpu"]
    assert pinned["torch-cuda.txt"] == [f"torch==={version}"]
