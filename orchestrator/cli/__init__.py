"""Every command, a file each: the only room that prints."""
