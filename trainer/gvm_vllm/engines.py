"""vLLM weight-transfer engines that read safetensors: `gvm_http` and `gvm_filesystem`.

One update is two calls of `/update_weights`: `{"stage": "fetch", "shards": […]}` brings the bytes here and
verifies them without touching the model; `{"stage": "load"}` swaps them in. Between the two the learner waits for
all servers, so a bad transfer to one of them changes none. Knows neither who the learner is nor which policy
version it is at: vLLM records that in `/finish_weight_update`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from gvm_vllm.shards import HttpSource, Shard, WeightsRejectedError, iterate_tensors, new_spool, verify

if TYPE_CHECKING:
    import tempfile


class WeightsUndefinedError(RuntimeError):
    """Loading failed half-way: the model's weights are neither the old nor the new ones. Restart the server."""


@dataclass
class HttpInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM ships no types
    """How to reach the learner: bearer token, seconds without a byte before a fetch fails, tries a shard."""

    token: str = field(repr=False)
    timeout_seconds: float = 120.0
    attempts: int = 3


@dataclass
class FilesystemInitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # as above
    """The only folder that shards may be read from, as this server sees it."""

    directory: str


@dataclass
class StagedUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]  # as above
    """One of the two calls of an update; `shards` (as the learner announced them) only when fetching."""

    stage: Literal["fetch", "load"]
    shards: list[dict[str, Any]] = field(default_factory=list)


class _StagedEngine(WeightTransferEngine[Any, StagedUpdateInfo]):  # type: ignore[misc]  # as above
    """Verify first, load after; subclasses say only where the bytes come from."""

    update_info_cls = StagedUpdateInfo

    _shards: list[Shard]
    _paths: list[Path]

    def _fetch(self, shards: Sequence[Shard]) -> list[Path]:
        """Return a local, verified file for each shard. Raises WeightsRejectedError."""
        raise NotImplementedError

    def _release(self) -> None:
        """Drop what `_fetch` brought here."""

    def start_weight_update(self) -> None:
        """Forget an earlier, abandoned update. The model is touched in the load stage only."""
        self._forget()

    def receive_weights(self, update_info: StagedUpdateInfo) -> None:
        """Fetch and verify, or load what was fetched.

        Raises:
            ValueError: the announcement is malformed.
            WeightsRejectedError: the bytes are not what was announced; the model is as it was.
            WeightsUndefinedError: loading failed; the model is not usable.
        """
        if update_info.stage == "fetch":
            self._shards = [Shard.from_wire(wire) for wire in update_info.shards]
            self._paths = self._fetch(self._shards)
        elif not self._paths:
            raise WeightsRejectedError("nothing was fetched: call update_weights with stage 'fetch' first")
        else:
            try:
                self._load()
            finally:
                self._forget()

    def _load(self) -> None:
        try:
            initialize_layerwise_reload(self.model)
            loaded = self.model.load_weights(iterate_tensors(self._paths, self._shards))
            finalize_layerwise_reload(self.model, self.model_config)
        except Exception as error:  # whatever a model's loader raises, the weights are undefined from here on
            raise WeightsUndefinedError(f"loading the fetched weights failed: {error!r}") from error
        # Layers for which nothing came keep the old weights; a policy must not be a mixture of two versions.
        missing = sorted({name for name, _ in self.model.named_parameters()} - (loaded or set()))
        if missing:
            raise WeightsUndefinedError(f"no weights came for {', '.join(missing[:5])} ({len(missing)} in all)")

    def finish_weight_update(self) -> None:
        """Drop what was fetched and not loaded. The load stage itself finalises the model."""
        self._forget()

    def shutdown(self) -> None:
        """Delete what was fetched."""
        self._forget()

    def _forget(self) -> None:
        self._shards, self._paths = [], []
        self._release()


class HttpWeightEngine(_StagedEngine):
    """`gvm_http`: fetches shards from the learner's file server into a private spool folder."""

    init_info_cls = HttpInitInfo

    _source: HttpSource | None = None
    _spool: "tempfile.TemporaryDirectory[str] | None" = None

    def init_transfer_engine(self, init_info: HttpInitInfo) -> None:
        """Remember how to reach the learner."""
        if init_info.attempts < 1:
            raise ValueError(f"attempts: got {init_info.attempts}, at least 1 is needed")
        self._source = HttpSource(
            token=init_info.token, timeout_seconds=init_info.timeout_seconds, attempts=init_info.attempts
        )

    def _fetch(self, shards: Sequence[Shard]) -> list[Path]:
        if self._source is None:
            raise WeightsRejectedError("call init_weight_transfer_engine first")
        self._spool = new_spool()
        return self._source.fetch(shards, Path(self._spool.name))

    def _release(self) -> None:
        if self._spool is not None:
            self._spool.cleanup()
            self._spool = None


class FilesystemWeightEngine(_StagedEngine):
    """`gvm_filesystem`: reads shards from a folder shared with the learner, without copying them."""

    init_info_cls = FilesystemInitInfo

    _directory: Path | None = None

    def init_transfer_engine(self, init_info: FilesystemInitInfo) -> None:
        """Remember the folder that shards may come from."""
        self._directory = Path(init_info.directory).resolve()

    def _fetch(self, shards: Sequence[Shard]) -> list[Path]:
        if self._directory is None:
            raise WeightsRejectedError("call init_weight_transfer_engine first")
        paths = [(self._directory / shard.location).resolve() for shard in shards]
        for shard, path in zip(shards, paths, strict=True):
            if not path.is_relative_to(self._directory):
                raise WeightsRejectedError(f"{shard.location}: lies outside {self._directory}")
            verify(shard, path)
        return paths
