"""What operators run by hand: one module per command. ``__main__`` has their options, they have the work."""
