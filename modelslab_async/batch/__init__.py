"""A manifest in, videos out: batches that can be left alone, killed, and started again."""
