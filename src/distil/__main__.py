"""``python -m distil``."""

from distil.cli import main

if __name__ == "__main__":
    code = main()
    # Python marks an interrupt that met code given as text (as in making a named tuple), and under -m ends the process
    # by a signal for it, even where it was handled; running any text takes the mark away.
    exec("")
    raise SystemExit(code)
