"""One module a command; each has a click `command` and does its imports when it runs."""
