"""What commands do, one module a command: these import what is slow to load, and are imported when
the command runs."""
