"""`python -m modelslab_async`: the command."""

from modelslab_async.cli import main

main()
