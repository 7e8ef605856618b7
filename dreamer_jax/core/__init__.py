"""What every other package may use: configuration, spaces, errors, files and words. Imports no JAX."""
