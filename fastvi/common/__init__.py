"""What every room needs: validation, threads, progress, scratch space, small values."""
