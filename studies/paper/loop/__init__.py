"""Parts of the chapters that roll the model out."""
