"""Conventions: forms in which frameworks store a layer's weight as several arrays, in the room of each framework.

A row of a table is a framework's own documented form (`recipe.Convention`). Wrappers of Flax and this library's
constraint, whose names are paths and whose settings are text, have functions.
"""
