"""The reader of Keras's layers (`layers`). Training is found by entry point (`specnorm.plugin.names_of`)."""

from specnorm.plugin import names_of

__getattr__, __dir__ = names_of(__name__)
