"""What each command does, without the option parsing."""
