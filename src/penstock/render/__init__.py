"""Files for other programs, made from the configuration: text in, text out."""
