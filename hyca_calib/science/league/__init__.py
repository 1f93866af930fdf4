"""What the chapter on results is made of."""
