"""All that is compiled, and nothing else: networks, world model, behaviour, update and policy as pure functions."""
