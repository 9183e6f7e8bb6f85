"""Whether the challenger may answer: the same holdout, paired statistics, a recorded decision."""
