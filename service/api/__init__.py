"""The HTTP face: thin routes that parse, call and shape the answer."""
