"""The service's protocol and the rules of a job, without I/O, clock, randomness or environment of their own."""
