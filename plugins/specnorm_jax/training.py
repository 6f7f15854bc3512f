"""Training with JAX, in the package that is built on this plugin: names are found by entry point."""

from specnorm.plugin import names_of

__getattr__, __dir__ = names_of(__name__)
