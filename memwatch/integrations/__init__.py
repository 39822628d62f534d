"""Other libraries, one file each, over memwatch's public names only."""
