"""Complete programs that use fastvi, as a user would write them. `fastvi tour` runs them."""
