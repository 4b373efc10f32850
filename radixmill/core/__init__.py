"""The dictionary: the types in which front, engine and device speak to one another. Pure data, no I/O."""
