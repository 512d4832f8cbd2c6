"""One module a command, with its options and its help. It is quick to load: what takes long, such as
torch, is imported when the command runs, most of it by a module of `work`."""

COMMANDS = {
    "prepare": "Turn videos into a store of frames that clips are read from fast.",
    "pretrain": "Train the slow and the fast pathway as a recipe says.",
    "retrieve": "Measure nearest-neighbour retrieval of a trained run, or search with videos of "
    "your own.",
    "embed": "Write the features of a folder of videos, or of a prepared dataset, as a table.",
    "finetune": "Measure classification: linear probe, k-NN, fine-tuning, or training from "
    "scratch.",
    "ablate": "Train and measure the rows of a table, and make the table.",
    "export": "Write a trained run as a folder that others can use.",
    "recipes": "List, show and check recipes.",
    "plugins": "List and describe the components there are.",
}
"""Every built-in command with its line of help, said here so that `vcsf --help` imports none of
them."""
