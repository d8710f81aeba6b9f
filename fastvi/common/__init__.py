"""What all rooms of the API use: validation, immutable values, scratch space, threads, progress, statuses."""
