"""Training: starting and resuming runs, the loop, the learner and what is due when."""
