"""Doors in for users of other tools; nothing in Stillhouse imports them."""
