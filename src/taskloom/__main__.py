"""`python -m taskloom`: the command line, where the `taskloom` script is not on the path."""

from taskloom.cli import main

if __name__ == "__main__":
    main()
