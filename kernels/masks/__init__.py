"""Label maps read once, whatever their type and layout: a row of bits a label."""
