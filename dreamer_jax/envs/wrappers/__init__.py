"""What stands between the agent and an environment: spaces made canonical, values checked, actions repeated."""
