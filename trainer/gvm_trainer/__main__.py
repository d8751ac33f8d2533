"""One rank of the learner: `torchrun … -m gvm_trainer`.

Kept light: verifier processes import their parent's main module, and must not load torch with it.
"""

if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    from gvm_trainer.train import main

    record(main)()  # torchrun's closing report then names the first rank's error
