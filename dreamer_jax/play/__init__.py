"""Playing with a trained agent: policies, rollouts, evaluations and videos."""
