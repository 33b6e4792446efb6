"""`python -m clara`: the command line."""

from .commands.main import main

if __name__ == "__main__":
    raise SystemExit(main())
