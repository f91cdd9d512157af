"""Parts of all commands: options, data, training, and the folder of a run."""
