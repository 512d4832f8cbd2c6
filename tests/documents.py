"""Command lines in documents."""

import re


def shell_blocks(text: str) -> list[str]:
    """The command lines in a text's shell blocks."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line]


def commands_in(text: str) -> list[str]:
    """The command lines in a text's shell blocks and between its backquotes."""
    return shell_blocks(text) + re.findall(r"`((?:vcsf|make|pip) [^`]+)`", text)
