"""``python -m control``: the same as ``crm-export``."""

from control.cli import main

main()
