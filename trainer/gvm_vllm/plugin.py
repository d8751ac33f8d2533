"""What vLLM calls in each of its processes before it builds an engine (entry point `vllm.general_plugins`).

Registers the weight-transfer engines by name, so that a server that uses neither loads neither. Knows nothing
of the learner.
"""


def register() -> None:
    """Register `gvm_http` and `gvm_filesystem`; on a CPU, keep linear layers out of oneDNN's packed format.

    vLLM calls this more than once a process, so it has to be idempotent.
    """
    from vllm import _custom_ops
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # On a CPU vLLM repacks each linear weight for oneDNN at load. A reload in place leaves the packed
        # copy pointing at a tensor that is gone, and the server answers with garbage and no error. Plain
        # torch.nn.functional.linear reads the weight itself, at 10-25 % fewer tokens a second.
        _custom_ops._supports_onednn = False

    registered = WeightTransferEngineFactory._registry
    for name, engine in (("gvm_http", "HttpWeightEngine"), ("gvm_filesystem", "FilesystemWeightEngine")):
        if name not in registered:
            WeightTransferEngineFactory.register_engine(name, "gvm_vllm.engines", engine)
