"""The allocator: posterior, budgets and the ledger of samples, served over HTTP."""
