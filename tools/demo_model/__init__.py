"""The bundled demo model: its corpus, its training, its files and its marks."""
