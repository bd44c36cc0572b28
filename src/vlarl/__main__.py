"""`python -m vlarl` is the command `vlarl`."""

from vlarl.cli import main

if __name__ == "__main__":
    main()
