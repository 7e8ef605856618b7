"""Looking into trained agents: imagination beside reality, and studies over several runs."""
