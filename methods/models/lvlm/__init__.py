"""Large vision-language models: one file per model family."""
