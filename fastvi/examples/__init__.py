"""Complete programs as users would write them. `fastvi tour` runs them, and the benchmarks time them."""
