"""The service's protocol and the rules of a job, which do no I/O and read no clock, random source or environment."""
