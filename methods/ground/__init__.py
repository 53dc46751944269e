"""Ground: from attention to a map on keyframes."""
