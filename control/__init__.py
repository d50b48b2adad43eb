"""What an operator holds in the hand."""
