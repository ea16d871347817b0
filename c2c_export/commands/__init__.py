"""One command a module; each parses its options and calls one function."""
