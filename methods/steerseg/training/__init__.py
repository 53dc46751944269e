"""Training of SteerSeg's soft prompts."""
