"""`python -m dreamer_jax` is the command `dreamer`."""

from dreamer_jax.cli.main import main

if __name__ == "__main__":
    main()
