"""Job records on disk: the `Journal` protocol, and the journal that keeps them in a SQLite file."""
