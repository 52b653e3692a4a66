"""Other programs' plug-ins: a folder each, the only place that imports that program."""
