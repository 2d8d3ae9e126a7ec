"""One file a measurement, taken by `python tools/logs.py NAME [WORD ...]`.

A measurement's docstring says in its first line what is measured, then how it is asked for, how long it
takes on two CPU cores, and which log it writes. Its `main` takes the words of the command line. Programs
that must run in a process of their own stand in programs/; what all share is in common.py. A file that is
added here is found by its name, nothing else has to be told."""
