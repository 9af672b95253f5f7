"""Downloads as their owners ship them, one file each: the registry finds every layout that is defined here."""
