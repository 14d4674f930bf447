"""The `penstock` command. Any Python must be able to read this module, so that an old one gets a message."""

import sys

PYTHON_MIN = (3, 11)


def main() -> None:
    """Runs the command line of this process, and ends it."""
    if sys.version_info < PYTHON_MIN:  # this is what an old Python must reach
        found = "%d.%d" % sys.version_info[:2]  # noqa: UP031 - as above
        sys.stderr.write("error: Penstock needs Python 3.11 or newer, this is " + found + "\n")
        sys.stderr.write("hint: install python3.11 or newer, then `make up PYTHON=python3.11`\n")
        sys.exit(2)
    from penstock.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
