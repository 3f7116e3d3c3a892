"""Jobs on disk: what a client asks of a journal, and the SQLite file that is one."""
