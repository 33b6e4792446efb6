"""The `clara` command line, one file a command."""
