"""Pictures on their way in, and videos on their way to the disk."""
