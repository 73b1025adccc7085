"""`python -m node` is `segnode`."""

from node.cli import main

if __name__ == "__main__":
    main()
