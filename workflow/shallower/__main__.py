"""`python -m shallower` is the command `shallower`."""

from shallower.cli import main

if __name__ == "__main__":
    main()
