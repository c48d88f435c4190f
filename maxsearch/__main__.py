"""`python -m maxsearch`."""

from maxsearch.cli import main

if __name__ == "__main__":
    main()
