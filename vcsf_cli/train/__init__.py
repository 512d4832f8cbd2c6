"""Tasks that join parts into a loss, and the one loop that trains any of them."""
