"""The commands of the command line, one module for each subject; imported when a command is given."""

#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130
