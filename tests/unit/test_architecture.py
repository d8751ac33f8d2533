"""What loads what: the contract stays light, the operator's side stays without a deep-learning library."""

import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEARNING = ("torch", "vllm", "transformers", "deepspeed", "datasets")
LIGHT = [
    ("gvm_api.load", (*LEARNING, "fastapi", "httpx", "numpy", "kopf", "kubernetes", "typer")),
    ("gvm_api.wire", (*LEARNING, "fastapi", "httpx", "numpy", "kopf", "kubernetes", "typer")),
    ("gvm_operator.manifests", (*LEARNING, "fastapi", "numpy")),
    ("gvm_allocator.app", (*LEARNING, "kopf", "kubernetes")),
    ("gvm_cli.main", (*LEARNING, "kopf", "kubernetes", "matplotlib", "fastapi")),
    ("gvm_trainer.rewards", ("torch", "vllm", "deepspeed")),
    ("gvm_vllm.plugin", LEARNING),
]


@pytest.mark.parametrize(("module", "unwanted"), LIGHT, ids=[module for module, _ in LIGHT])
def test_importing_a_module_loads_only_what_its_process_needs(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, json, {module}; print(json.dumps([m for m in {unwanted!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_module_of_the_contract_and_of_the_operator_s_side_can_be_imported_without_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "operator").with_suffix("").parts)
        for package in ("gvm_api", "gvm_operator", "gvm_allocator", "gvm_cli")
        for path in sorted((ROOT / "operator" / package).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    assert len(modules) > 30
    code = (
        f"import importlib, sys\nfor module in {modules!r}: importlib.import_module(module)\n"
        f"print([m for m in {LEARNING!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_code_folders_are_no_packages_and_the_standard_library_stays_whole() -> None:
    for folder in (
        "operator",
        "trainer",
        "tests",
        *(f"tests/{p.name}" for p in (ROOT / "tests").iterdir() if p.is_dir()),
    ):
        assert not (ROOT / folder / "__init__.py").exists(), folder
    assert operator.add(2, 3) == 5
    assert Path(operator.__file__).parent == Path(json.__file__).parents[1]
    code = "import operator; print(operator.add(2, 3))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "5\n", "even from the repository's root, where a folder bears the name"
