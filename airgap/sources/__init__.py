"""Where a bundle's files come from: conda channels, Python package indexes, apt archives, the checkout itself."""
