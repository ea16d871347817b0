"""In: a machine, and perhaps a bundle. Out: what can be done here, and what is missing."""
