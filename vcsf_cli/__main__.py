"""`python -m vcsf_cli` is `vcsf`."""

import sys

from vcsf_cli.cli import main as run


def main() -> None:
    """Run the command line of this process and exit."""
    sys.exit(run())


if __name__ == "__main__":
    main()
