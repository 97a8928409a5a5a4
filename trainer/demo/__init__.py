"""The embedded tiny world: drawn pictures, a tiny base that paints them, and pairs that judge them."""
