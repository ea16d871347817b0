"""The c2c-export runtime: opens a bundle and answers. Needs neither torch nor transformers."""
