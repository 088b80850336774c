"""What a method trains: its networks, its loss terms and what it saves."""
