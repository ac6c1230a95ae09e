"""Side-by-side benchmarks: this engine against Celery's chain, in interleaved rounds of one command."""
