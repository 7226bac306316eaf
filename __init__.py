"""burnish."""
