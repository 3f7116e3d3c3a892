"""Run jobs: submit them in turn, poll them, save their videos, and record every step."""
