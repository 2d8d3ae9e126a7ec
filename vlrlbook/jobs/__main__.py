"""`python -m vlrlbook.jobs supervise|train`: see command_line.py."""
import sys

from .command_line import main

main(sys.argv[1:])
