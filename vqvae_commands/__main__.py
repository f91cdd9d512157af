"""`python -m vqvae_commands` is `vqvae`."""

from vqvae_commands.entry import main

if __name__ == "__main__":
    main()
