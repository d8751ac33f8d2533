"""The learner: rank 0 of a torchrun gang drives the EM loop, and every rank trains."""
