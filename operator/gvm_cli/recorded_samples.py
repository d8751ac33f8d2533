"""Finds samples in a run's samples/NNNNNN.parquet, reading no more columns, rows and files than were asked for.

Runs of earlier versions lack some columns, which are then taken from the plans. Knows nothing of how samples look.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvm_cli.recorded_run import RecordedPlan, read_plan
from gvm_cli.sample_query import COLUMNS, Query, Row, SortKey

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

_SORT_COLUMNS: Mapping[SortKey, str] = {
    "n_i": "sample_size",
    "tokens": "num_tokens",
    "p": "accept_rate",
    "G": "grad_norm",
    "reward": "reward",
}
_OF_PLANS = ("accept_rate", "grad_norm", "sample_size")
_TEXTS = ("prompt", "answer", "completion")


def find(run_dir: Path, files: Mapping[int, Path], query: Query, columns: Sequence[str] = COLUMNS) -> Iterator[Row]:
    """The samples that match, as {column: value}; null where it is not known. Sorted ones are held in memory.

    Raises:
        ValueError: a file cannot be read.
    """
    if query.sort is not None:
        yield from _sorted(run_dir, files, query, columns)
        return
    left = query.limit or math.inf
    for iteration, path in files.items():
        if left <= 0:
            return
        file = _File.open(run_dir, iteration, path, columns)
        for batch in file.batches(query, None if math.isinf(left) else int(left)):
            left -= batch.num_rows
            yield from _rows(batch)


def count(run_dir: Path, files: Mapping[int, Path], query: Query) -> int:
    """How many samples match, whatever the limit.

    Raises:
        ValueError: a file cannot be read.
    """
    return sum(_File.open(run_dir, iteration, path, ()).count(query) for iteration, path in files.items())


def _sorted(run_dir: Path, files: Mapping[int, Path], query: Query, columns: Sequence[str]) -> Iterator[Row]:
    """The first rows in the order asked for; one file's rows at a time are held beside those."""
    import pyarrow as pa

    assert query.sort is not None
    by = [(_SORT_COLUMNS[query.sort], "ascending" if query.is_ascending else "descending")]
    best: list[pa.Table] = []
    for iteration, path in files.items():
        found = _File.open(run_dir, iteration, path, columns).batches(query, None)
        tables = [*best, *found]
        if tables:
            best = [pa.concat_tables(tables, promote_options="permissive").sort_by(by).slice(0, query.limit or None)]
    for table in best:
        yield from _rows(table)


def _rows(table: "pa.Table") -> Iterator[Row]:
    for row in table.to_pylist():
        yield {key: _without_nan(value) for key, value in row.items()}


def _without_nan(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """One iteration's samples."""

    iteration: int
    path: Path
    source: "ds.Dataset"
    plan: RecordedPlan | None
    """Read only where columns are missing."""

    columns: Sequence[str]

    @classmethod
    def open(cls, run_dir: Path, iteration: int, path: Path, columns: Sequence[str]) -> "_File":
        # Imported here: other commands need not wait for pyarrow.
        import pyarrow.dataset as ds

        with _readable(path):
            source = ds.dataset(path, format="parquet")
        is_whole = set(_OF_PLANS) <= set(source.schema.names)
        plan = None if is_whole else read_plan(run_dir / "plans" / f"{iteration:06}.json")
        return cls(iteration=iteration, path=path, source=source, plan=plan, columns=columns)

    def count(self, query: Query) -> int:
        with _readable(self.path):
            return int(self.source.count_rows(filter=self._filter(query)))

    def batches(self, query: Query, limit: int | None) -> Iterator["pa.Table"]:
        """Tables of `columns`; one where a limit is given, else one a batch of the file."""
        import pyarrow as pa

        scanner = self.source.scanner(columns=self._projection(), filter=self._filter(query))
        with _readable(self.path):
            if limit is not None:
                yield self._completed(scanner.head(limit))
                return
            for batch in scanner.to_batches():
                yield self._completed(pa.Table.from_batches([batch]))

    def _projection(self) -> dict[str, Any]:
        import pyarrow.compute as pc

        known = {name: pc.field(name) for name in self.columns if name in self.source.schema.names}
        if "num_tokens" in self.columns and "num_tokens" not in known:
            known["num_tokens"] = pc.list_value_length(pc.field("token_ids"))
        return known | ({"prompt_id": pc.field("prompt_id")} if self.columns else {})

    def _completed(self, table: "pa.Table") -> "pa.Table":
        """With what the file lacks, in the order asked for."""
        import pyarrow as pa
        import pyarrow.compute as pc

        arrays: dict[str, Any] = {"iteration": pa.array([self.iteration] * table.num_rows, pa.int32())}
        for name in self.columns:
            if name in table.column_names:
                arrays[name] = table[name]
            elif name in _OF_PLANS:
                of_prompt = self._of_plan(name)
                place = pc.index_in(table["prompt_id"], value_set=pa.array(of_prompt.keys(), pa.string()))
                kind = pa.int32() if name == "sample_size" else pa.float64()
                arrays[name] = pa.array(of_prompt.values(), kind).take(place)
        return pa.table({name: arrays[name] for name in self.columns if name in arrays})

    def _of_plan(self, column: str) -> dict[str, float]:
        if self.plan is None:
            return {}
        values = {
            "accept_rate": self.plan.accept_rates,
            "grad_norm": self.plan.grad_norms,
            "sample_size": self.plan.sample_sizes,
        }[column]
        return dict(zip(self.plan.prompt_ids, values, strict=True))

    def _filter(self, query: Query) -> Any:
        """The query as one expression, None where everything matches."""
        import pyarrow.compute as pc

        equal = {"prompt_id": query.prompt_id, "outcome": query.outcome, "stage": query.stage}
        parts = [pc.field(name) == value for name, value in equal.items() if value is not None]
        if query.search:
            found = [pc.match_substring(pc.field(name), query.search, ignore_case=True) for name in _TEXTS]
            parts.append(found[0] | found[1] | found[2])
        low, high = query.min_accept_rate, query.max_accept_rate
        if low is not None or high is not None:
            parts.append(self._has_accept_rate(-math.inf if low is None else low, math.inf if high is None else high))
        return _all_of(parts)

    def _has_accept_rate(self, low: float, high: float) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        if "accept_rate" in self.source.schema.names:
            # In the file's own precision: 0.1 of a float32 column is no 0.1 of a float64.
            bounds = [pa.scalar(bound, self.source.schema.field("accept_rate").type) for bound in (low, high)]
            return (pc.field("accept_rate") >= bounds[0]) & (pc.field("accept_rate") <= bounds[1])
        between = [prompt for prompt, rate in self._of_plan("accept_rate").items() if low <= rate <= high]
        return pc.field("prompt_id").isin(pa.array(between, pa.string()))


def _all_of(parts: Sequence[Any]) -> Any:
    whole = None
    for part in parts:
        whole = part if whole is None else whole & part
    return whole


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as samples ({error}); choose another --iteration") from error
