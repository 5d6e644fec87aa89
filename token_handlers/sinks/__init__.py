"""Where records go: a durable ledger, a fleet's counters, metrics."""
