"""Chain-of-thought reasoning: what a model says about an expression before anything is looked for."""
