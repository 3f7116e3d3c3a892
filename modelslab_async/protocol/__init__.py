"""The pure core: no I/O, no clock, no randomness of its own, no environment. Values in, values out."""
