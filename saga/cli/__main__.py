"""`python -m saga.cli`: the same as the console script. It knows nothing itself."""

from saga.cli import main

if __name__ == "__main__":
    main()
