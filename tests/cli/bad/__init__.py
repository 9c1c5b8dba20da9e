"""The table of bad inputs, a module for each kind of thing that can be wrong."""
