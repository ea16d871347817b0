"""The table of docs/performance.md: what was set as a target, what is reached."""
