"""The models methods stand on."""
