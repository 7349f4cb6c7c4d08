"""The study: a grid of cells to runs, a results store, and a summary with a verdict per task."""
