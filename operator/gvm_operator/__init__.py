"""Turns a GVMTrainingJob into the children that run it."""
