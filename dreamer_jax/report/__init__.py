"""From run folders to tables, figures and one page, beside published curves. Imports no JAX."""
