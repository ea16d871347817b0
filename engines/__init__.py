"""Graph -> engine, for one backend and target. Nothing is built here yet: see docs/architecture.md."""
