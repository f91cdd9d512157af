"""What a command says to the terminal, and hears from it."""
