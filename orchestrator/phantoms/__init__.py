"""Generated CT volumes of invented patients, in the layouts of the public downloads."""
