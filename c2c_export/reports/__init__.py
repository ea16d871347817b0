"""In: figures. Out: words, charts and pages that commands show."""
