"""The last error of a log: Python's, vLLM's over three processes, torchrun's over ranks, argparse's, none."""

import pytest

from gvm_api.root_cause import last_line, root_cause

TRACEBACK = """\
INFO: loading
Traceback (most recent call last):
  File "/app/server.py", line 3, in <module>
    raise ValueError("OSError: quoted")
    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""

WORKER = "(Worker pid=11424) ERROR 11-21 14:23:44 [multiproc_executor.py:953]"
ENGINE = "(EngineCore pid=11333) ERROR 11-21 14:23:47 [core.py:1510]"
VLLM = f"""\
(APIServer pid=11300) INFO 11-21 14:23:01 [api_server.py:1] vLLM API server
{WORKER} WorkerProc failed to start.
{WORKER} Traceback (most recent call last):
{WORKER}   File "/venv/vllm/model_executor/model_loader/default_loader.py", line 1, in _prepare_weights
{WORKER}     raise RuntimeError(
{WORKER} RuntimeError: Cannot find any model weights with `/models/policy`
(EngineCore pid=11333) INFO 11-21 14:23:44 [multiproc_executor.py:479] [shutdown] Executor: waiting for worker exit
{ENGINE} EngineCore failed to start.
{ENGINE} Traceback (most recent call last):
{ENGINE}   File "/venv/vllm/v1/engine/core.py", line 1482, in run_engine_core
{ENGINE}     raise e from None
{ENGINE} Exception: WorkerProc initialization failed due to an exception in a background process. \
See stack trace for root cause.
Process EngineCore:
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in _bootstrap
    self.run()
Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
(APIServer pid=11300) Traceback (most recent call last):
(APIServer pid=11300)   File "/venv/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
(APIServer pid=11300)     raise RuntimeError(
(APIServer pid=11300) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""

PYDANTIC = """\
  File "/venv/pydantic/_internal/_dataclasses.py", line 121, in __init__
    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (256) is greater than the derived max_model_len (128). [type=value_error, \
input_value=ArgsKwargs((), {'model': '/m'}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""

TORCHRUN = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/app/gvm_trainer/loop.py", line 10, in step
[rank1]:     loss.backward()
[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
[rank0]: Traceback (most recent call last):
[rank0]:   File "/app/gvm_trainer/loop.py", line 11, in step
[rank0]: RuntimeError: [/pytorch/third_party/gloo/tcp/pair.cc:534] Connection closed by peer [10.0.0.3]:4000
E1121 14:00:00.123000 12345 torch/distributed/elastic/multiprocessing/api.py:870] failed (exitcode: 1) local_rank: 1
Traceback (most recent call last):
  File "/venv/torch/distributed/run.py", line 900, in run
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
gvm_trainer FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_14:00:00
  exitcode  : 1 (pid: 12346)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (TRACEBACK + "ValueError: no CUDA device\n", "ValueError: no CUDA device"),
        (TRACEBACK + "ValueError: no CUDA device\nwandb: run finished\n", "ValueError: no CUDA device"),
        (TRACEBACK + "KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n"
         + TRACEBACK + "RuntimeError: b\n", "RuntimeError: b"),
        (TRACEBACK + "AssertionError\n", "AssertionError"),
        (TRACEBACK + "RuntimeError: two lines:\nfirst\n", "RuntimeError: two lines: first"),
        (VLLM, "RuntimeError: Cannot find any model weights with `/models/policy`"),
        (
            PYDANTIC,
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, "
            "User-specified max_model_len (256) is greater than the derived max_model_len (128).",
        ),
        (TORCHRUN, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
        (
            "usage: api_server.py [-h] [--host HOST]\napi_server.py: error: unrecognized arguments: --nonsense\n",
            "api_server.py: error: unrecognized arguments: --nonsense",
        ),
        ("\x1b[31mOSError: red\x1b[0m\n", "OSError: red"),
        ("(EngineCore_0 pid=7) ERROR 11-21 09:00:00 [gpu.py:1] no GPU was found\nbye\n", "no GPU was found"),
        # Better a consequence than nothing, where the cause has scrolled away.
        (
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n",
            "RuntimeError: Engine core initialization failed. See root cause above.",
        ),
        ("loading\nready in 3 s\n", ""),
        ("    raise ValueError: indented, so quoted\n", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_error_that_brought_about_the_others_is_found(log: str, cause: str) -> None:
    assert root_cause(log) == cause


def test_the_beginning_of_a_long_error_is_kept() -> None:
    assert root_cause("ValueError: " + "long " * 100, limit=20) == "ValueError: long lo…"


def test_the_last_line_that_says_anything() -> None:
    assert last_line("loading\n(APIServer pid=1) INFO 11-21 09:00:00 [a.py:1] up\n\n  \n") == "up"
    assert last_line("\n") == ""
