"""Run the command: `python -m modelslab_async`."""

from modelslab_async.cli import main

main()
