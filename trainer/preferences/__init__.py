"""What people were shown and what they chose."""
