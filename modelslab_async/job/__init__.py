"""A job: the future that users hold, and everything that is known of it inside."""
