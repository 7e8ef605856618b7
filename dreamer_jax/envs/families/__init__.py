"""One file for each family of tasks: what stands before the colon of a task name."""
