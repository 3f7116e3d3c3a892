"""Media files: pictures to submit, and finished videos to save."""
