"""What an update costs: its parts, its operations, and how both grow."""
