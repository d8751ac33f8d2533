"""What it costs to be seen: a run that is scraped, watched and recorded against one that is not.

    python -m benchmarks.observability [--pairs 3] [--iterations 6] [--json]

Pairs of `gvm run` on the arithmetic example, the same seed in each. Watched: every sample is saved, TensorBoard is
written, Prometheus' part is played by a scrape of every process each 15 s, and the live page is open (its requests
each 2 s). Alone: none of that. `ratio` is watched over alone of the seconds an iteration takes, evaluation left out;
`cpu_ratio` is the same of the CPU seconds of all processes, which a busy machine disturbs less.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

SCRAPE_SECONDS, POLL_SECONDS = 15.0, 2.0
PAGE = re.compile(r"live page: (http://[^/]+)/#token=(\S+)")


def job_file(folder: Path, *, iterations: int, is_watched: bool) -> Path:
    """The example, with or without what a watched run writes."""
    job = yaml.safe_load(Path("examples/arithmetic.yaml").read_text())
    spec = job["spec"]
    spec["algorithm"]["maxIterations"] = iterations
    spec["evaluation"]["everyIterations"] = iterations
    spec["storage"] |= {"saveSamples": is_watched, "checkpointEveryIterations": iterations}
    spec["learner"]["reportTo"] = ["tensorboard"] if is_watched else []
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(job, sort_keys=False))
    return file


def run(folder: Path, *, iterations: int, is_watched: bool) -> dict[str, float]:
    """One run: median seconds an iteration, CPU seconds of all its processes, share of the time spent on records."""
    folder.mkdir(parents=True)
    run_dir = folder / "run"
    file = job_file(folder, iterations=iterations, is_watched=is_watched)
    command = [sys.executable, "-m", "gvm_cli.main", "run", str(file), "--run-dir", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    ended, cpu_seconds, output = threading.Event(), CpuSeconds(run_dir), []
    with ThreadPoolExecutor() as pool:
        beside = [pool.submit(cpu_seconds.watch, ended)]
        for line in process.stdout:
            output.append(line)
            if is_watched and (found := PAGE.search(line)):
                beside.append(pool.submit(watch, found[1], found[2], run_dir, ended))
        code = process.wait()
        ended.set()
        for each in beside:
            each.result()
    if code:
        raise SystemExit(f"benchmark: the run failed:\n{''.join(output)}")
    lines = [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()][1:]
    seconds = [line["seconds"]["total"] - line["seconds"]["evaluate"] for line in lines]
    records = [line["seconds"]["records"] / line["seconds"]["total"] for line in lines]
    return {
        "iteration_seconds": statistics.median(seconds),
        "cpu_seconds": cpu_seconds.total,
        "records_share": statistics.fmean(records),
    }


class CpuSeconds:
    """CPU seconds of a run's processes, as far as they were seen."""

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / "processes.json"
        self._seen: dict[int, float] = {}

    @property
    def total(self) -> float:
        """Of all, user and system."""
        return sum(self._seen.values())

    def watch(self, ended: threading.Event) -> None:
        """Look each half second."""
        while not ended.wait(0.5):
            for pid in self._pids():
                try:
                    times = psutil.Process(pid).cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self._seen[pid] = times.user + times.system

    def _pids(self) -> set[int]:
        if not self._file.exists():
            return set()
        recorded = {entry["pid"] for entry in json.loads(self._file.read_text())}
        found = set(recorded)
        for pid in recorded:
            try:
                found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return found


def watch(url: str, token: str, run_dir: Path, ended: threading.Event) -> None:
    """Be Prometheus and an open page until the run ends."""
    scraped = 0.0
    with httpx.Client(timeout=10.0, trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        tags: dict[str, str] = {}
        newest = -1
        while not ended.wait(POLL_SECONDS):
            try:
                newest = look_at_page(http, f"{url}/v1/jobs/arithmetic/run", tags, newest)
                if time.monotonic() - scraped >= SCRAPE_SECONDS:
                    scraped = time.monotonic()
                    scrape(http, run_dir / "targets.json")
            except httpx.TransportError:
                continue  # it starts, or ends


def look_at_page(http: httpx.Client, url: str, tags: dict[str, str], newest: int) -> int:
    """What the page asks for: the new lines, and plan and samples where they changed."""
    lines = http.get(url, params={"after": newest}).json().get("lines", [])
    for part in ("plan", "samples"):
        answer = http.get(f"{url}/{part}", headers={"If-None-Match": tags.get(part, "")})
        tags[part] = answer.headers.get("ETag", "")
    return max([newest, *(int(line["iteration"]) for line in lines)])


def scrape(http: httpx.Client, targets: Path) -> None:
    """GET /metrics of every process."""
    if targets.exists():
        for group in json.loads(targets.read_text()):
            http.get(f"http://{group['targets'][0]}/metrics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.pairs):
            # The first of a pair in turns, so that a machine that slows down favours neither.
            order = (True, False) if number % 2 else (False, True)
            found = {
                is_watched: run(
                    Path(folder) / f"{number}-{is_watched}", iterations=options.iterations, is_watched=is_watched
                )
                for is_watched in order
            }
            pairs.append({"watched": found[True], "alone": found[False]})
    ratios = {
        name: [pair["watched"][key] / pair["alone"][key] for pair in pairs]
        for name, key in (("ratio", "iteration_seconds"), ("cpu_ratio", "cpu_seconds"))
    }
    result = {
        "benchmark": "observability",
        "pairs": pairs,
        **{name: statistics.median(values) for name, values in ratios.items()},
        **{f"{name}_range": [min(values), max(values)] for name, values in ratios.items()},
        "records_share": statistics.fmean(pair["watched"]["records_share"] for pair in pairs),
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, values in ratios.items():
        spread = f"({min(values):.4f} to {max(values):.4f}) over {len(pairs)} pairs"
        print(f"{name:<10} {statistics.median(values):.4f} {spread}")
    print(f"records    {result['records_share']:.2%} of an iteration's time")


if __name__ == "__main__":
    main()
